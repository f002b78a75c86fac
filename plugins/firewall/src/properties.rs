//! Properties that must hold for any input on stdin. The fuzz target calls them, and a test with every seed.

#[macro_use]
#[path = "../../../tests/fuzz/stdin.rs"]
mod stdin;

use cni_plugin::{CniError, CniResult, Owner, Plugin, Request, SpecVersion};

use crate::config::Config;
use crate::plan::plan;
use crate::settings::Settings;

target!("firewall", probe PROBE);

/// The plugin without the kernel.
const PROBE: Plugin<Config> = Plugin {
    versions: &[SpecVersion::V0_4_0, SpecVersion::V1_0_0, SpecVersion::V1_1_0],
    add: |request, attachment, _| planned(request, &attachment.owner, request.require_prev_result()?),
    check: |request, attachment| planned(request, &attachment.owner, request.require_result_of_add()?).map(drop),
    status: |request| Ok(Settings::resolve(&request.config).map(drop)?),
    ..stdin::probe("firewall")
};

fn planned(request: &Request<Config>, owner: &Owner, prev: &CniResult) -> Result<CniResult, CniError> {
    let settings = Settings::resolve(&request.config)?;
    let plan = plan(&settings, owner, prev)?;
    assert_eq!(&plan.owner, owner);
    Ok(prev.clone())
}
