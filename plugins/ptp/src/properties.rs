//! What must hold for whatever is on stdin. The fuzz target calls it, and a test with every seed.

#[path = "../../../tests/fuzz/stdin.rs"]
mod stdin;

use cni_plugin::{Owner, Plugin, Request, SpecVersion};

use crate::config::Config;
use crate::plan::Plan;
use crate::settings::Settings;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| stdin::holds(&PROBE, data));

#[cfg(test)]
#[test]
fn every_seed_holds() {
    stdin::try_seeds("ptp", |data| stdin::holds(&PROBE, data));
}

/// The plugin without the kernel: the previous result is what IPAM says.
const PROBE: Plugin<Config> = Plugin {
    name: "ptp",
    release: "v0.0.0",
    versions: SpecVersion::ALL,
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
    del: |_, _| Ok(()),
    gc: |request, valid| {
        assert!(valid.iter().all(|owner| owner.network == request.network));
        Ok(())
    },
    status: |request| Ok(Settings::resolve(&request.config).map(drop)?),
};

fn plan(settings: &Settings, owner: &Owner, request: &Request<Config>) -> Result<(), cni_plugin::CniError> {
    let told = request.prev_result.clone().unwrap_or_default();
    let plan = Plan::of(settings, owner, &told)?;
    assert!(plan.gateways.len() <= plan.addresses.len() && plan.masquerade.len() <= plan.addresses.len());
    let host = plan.host("veth0".parse()?);
    assert!(host.routes.len() <= plan.addresses.len());
    assert!(plan.families().count() <= 2);
    Ok(())
}
