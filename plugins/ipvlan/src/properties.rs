//! Properties that must hold for any input on stdin. The fuzz target calls it, and a test with every seed.

#[macro_use]
#[path = "../../../tests/fuzz/stdin.rs"]
mod stdin;

use cni_plugin::Plugin;

use crate::config::Config;
use crate::settings::Settings;

target!("ipvlan", probe PROBE);

/// The plugin without the kernel: the previous result is what IPAM says.
const PROBE: Plugin<Config> = Plugin {
    add: |request, _, _| {
        let settings = Settings::resolve(&request.config)?;
        assert!(settings.mtu.is_none_or(|mtu| mtu >= 68));
        Ok(request.prev_result.clone().unwrap_or_default())
    },
    check: |request, _| {
        Settings::resolve(&request.config)?;
        request.require_result_of_add().map(drop)
    },
    status: |request| Ok(Settings::resolve(&request.config).map(drop)?),
    ..stdin::probe("ipvlan")
};
