//! Properties that must hold for any input on stdin. The fuzz target calls it, and a test with every seed.

#[macro_use]
#[path = "../../../tests/fuzz/stdin.rs"]
mod stdin;

use cni_net::unusable_mac;
use cni_plugin::{CniArgs, CniError, Plugin};

use crate::config::Config;
use crate::settings::Settings;

target!("tap", probe PROBE);

/// The plugin without the kernel: the previous result is what IPAM says.
const PROBE: Plugin<Config> = Plugin {
    add: |request, attachment, _| {
        resolve(&request.config, &attachment.args)?;
        Ok(request.prev_result.clone().unwrap_or_default())
    },
    check: |request, attachment| resolve(&request.config, &attachment.args),
    status: |request| resolve(&request.config, &CniArgs::default()),
    ..stdin::probe("tap")
};

fn resolve(config: &Config, args: &CniArgs) -> Result<(), CniError> {
    let settings = Settings::resolve(config, args)?;
    assert!(settings.mac.is_none_or(|mac| unusable_mac(mac).is_none()));
    assert!(settings.mtu.is_none_or(|mtu| (68..=65535).contains(&mtu)));
    Ok(())
}
