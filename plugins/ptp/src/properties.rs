//! Properties that must hold for any input on stdin. The fuzz target calls them, and a test with every seed.

#[macro_use]
#[path = "../../../tests/fuzz/stdin.rs"]
mod stdin;

use cni_plugin::{Owner, Plugin, Request};

use crate::config::Config;
use crate::plan::Plan;
use crate::settings::Settings;

target!("ptp", probe PROBE);

/// The plugin without the kernel: the previous result is what IPAM says.
const PROBE: Plugin<Config> = Plugin {
    add: |request, attachment, _| {
        let settings = Settings::resolve(&request.config)?;
        plan(&settings, &attachment.owner, request)?;
        Ok(request.prev_result.clone().unwrap_or_default())
    },
    check: |request, attachment| {
        let settings = Settings::resolve(&request.config)?;
        request.require_result_of_add()?;
        plan(&settings, &attachment.owner, request)
    },
    status: |request| Ok(Settings::resolve(&request.config).map(drop)?),
    ..stdin::probe("ptp")
};

fn plan(settings: &Settings, owner: &Owner, request: &Request<Config>) -> Result<(), cni_plugin::CniError> {
    let result = request.prev_result.clone().unwrap_or_default();
    let plan = Plan::of(settings, owner, &result)?;
    let addresses = plan.addresses().count();
    assert!(plan.masquerade.len() <= addresses);
    let host = plan.host(&"veth0".parse()?);
    assert!(host.addresses.len() <= addresses && host.routes.len() == addresses);
    Ok(())
}
