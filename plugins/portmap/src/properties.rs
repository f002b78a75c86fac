//! Properties that must hold for any input on stdin. The fuzz target calls them, and a test with every seed.

#[macro_use]
#[path = "../../../tests/fuzz/stdin.rs"]
mod stdin;

use cni_plugin::{CniError, CniResult, Owner, Plugin, Request};

use crate::config::Config;
use crate::plan::plan;
use crate::settings::Settings;

target!("portmap", probe PROBE);

/// The plugin without the kernel.
const PROBE: Plugin<Config> = Plugin {
    add: |request, attachment, _| planned(request, &attachment.owner, request.require_prev_result()?),
    check: |request, attachment| planned(request, &attachment.owner, request.require_result_of_add()?).map(drop),
    status: |request| Ok(Settings::resolve(&request.config).map(drop)?),
    ..stdin::probe("portmap")
};

fn planned(request: &Request<Config>, owner: &Owner, prev: &CniResult) -> Result<CniResult, CniError> {
    let settings = Settings::resolve(&request.config)?;
    let plans = plan(&settings, owner, prev);
    assert!(plans.len() <= 2, "one of each family");
    for forwards in &plans {
        assert!(!forwards.ports.is_empty());
        assert!(prev.ips.iter().any(|ip| ip.address == forwards.container), "to an address of the result");
    }
    Ok(prev.clone())
}
