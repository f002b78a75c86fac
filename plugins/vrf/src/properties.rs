//! Properties that must hold for any input on stdin. The fuzz target calls it, and a test with every seed.

#[macro_use]
#[path = "../../../tests/fuzz/stdin.rs"]
mod stdin;

use cni_plugin::{CniError, Plugin};

use crate::config::Config;
use crate::settings::{RESERVED_TABLES, Settings};

target!("vrf", probe PROBE);

/// The plugin without the kernel.
const PROBE: Plugin<Config> = Plugin {
    add: |request, _, _| {
        resolve(&request.config)?;
        request.require_prev_result().cloned()
    },
    check: |request, _| resolve(&request.config),
    status: |request| resolve(&request.config),
    ..stdin::probe("vrf")
};

fn resolve(config: &Config) -> Result<(), CniError> {
    let settings = Settings::resolve(config)?;
    assert!(settings.table.is_none_or(|table| table > 0 && !RESERVED_TABLES.contains(&table)));
    Ok(())
}
