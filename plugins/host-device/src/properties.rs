//! Properties that must hold for any input on stdin. The fuzz target calls it, and a test with every seed.

#[macro_use]
#[path = "../../../tests/fuzz/stdin.rs"]
mod stdin;

use cni_plugin::{CniError, Plugin};

use crate::config::Config;
use crate::settings::{Selector, Settings};

target!("host_device", probe PROBE);

/// The plugin without the kernel: the previous result is what IPAM says.
const PROBE: Plugin<Config> = Plugin {
    add: |request, _, _| {
        resolve(&request.config)?;
        Ok(request.prev_result.clone().unwrap_or_default())
    },
    check: |request, _| resolve(&request.config),
    status: |request| resolve(&request.config),
    ..stdin::probe("host-device")
};

/// No path leads out of its directory.
fn resolve(config: &Config) -> Result<(), CniError> {
    let settings = Settings::resolve(config)?;
    assert!(settings.bus_id.is_none_or(|id| !id.contains('/') && id != ".."));
    if let Selector::KernelPath(path) = settings.device {
        assert!(path.starts_with("/sys/devices") && !path.components().any(|part| part.as_os_str() == ".."));
    }
    Ok(())
}
