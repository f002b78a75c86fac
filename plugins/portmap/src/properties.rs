//! What must hold for whatever is on stdin. The fuzz target calls it, and a test with every seed.

#[path = "../../../tests/fuzz/stdin.rs"]
mod stdin;

use cni_plugin::{CniError, CniResult, Owner, Plugin, Request, SpecVersion};

use crate::config::Config;
use crate::plan::plan;
use crate::settings::Settings;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| stdin::holds(&PROBE, data));

#[cfg(test)]
#[test]
fn every_seed_holds() {
    stdin::try_seeds("portmap", |data| stdin::holds(&PROBE, data));
}

/// The plugin without the kernel.
const PROBE: Plugin<Config> = Plugin {
    name: "portmap",
    release: "v0.0.0",
    versions: SpecVersion::ALL,
    add: |request, attachment, _| planned(request, &attachment.owner, request.require_prev_result()?),
    check: |request, attachment| planned(request, &attachment.owner, request.require_result_of_add()?).map(drop),
    del: |_, _| Ok(()),
    gc: |request, valid| {
        assert!(valid.iter().all(|owner| owner.network == request.network));
        Ok(())
    },
    status: |request| Ok(Settings::resolve(&request.config).map(drop)?),
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
