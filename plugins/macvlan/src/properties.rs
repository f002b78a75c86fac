//! Properties that must hold for any input on stdin. The fuzz target calls it, and a test with every seed.

#[macro_use]
#[path = "../../../tests/fuzz/stdin.rs"]
mod stdin;

use cni_plugin::{CniArgs, Plugin};

use crate::config::Config;
use crate::settings::Settings;

target!("macvlan", probe PROBE);

/// The plugin without the kernel: the previous result is what IPAM says.
const PROBE: Plugin<Config> = Plugin {
    add: |request, attachment, _| {
        let settings = Settings::resolve(&request.config, &attachment.args)?;
        assert!(settings.shim.is_none_or(|shim| !shim.addresses.is_empty()));
        Ok(request.prev_result.clone().unwrap_or_default())
    },
    check: |request, attachment| {
        Settings::resolve(&request.config, &attachment.args)?;
        request.require_result_of_add().map(drop)
    },
    status: |request| Ok(Settings::resolve(&request.config, &CniArgs::default()).map(drop)?),
    ..stdin::probe("macvlan")
};
