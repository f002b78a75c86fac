//! The CNI plugin `static`: an IPAM plugin that returns the configured addresses, and keeps no state.
#![cfg_attr(fuzzing, no_main, allow(dead_code, unused_imports))]

mod check;
mod config;
#[cfg(any(test, fuzzing))]
mod properties;
mod settings;

use std::process::ExitCode;

use cni_plugin::{CniArgs, Plugin, REFERENCE_RELEASE, SpecVersion};

use crate::config::Config;
use crate::settings::Settings;

/// No verb of it touches the kernel.
const PLUGIN: Plugin<Config> = Plugin {
    name: "static",
    release: REFERENCE_RELEASE,
    versions: SpecVersion::ALL,
    // Without an address the result is empty; what to make of that is the caller's business.
    add: |request, attachment, _| Ok(Settings::resolve(&request.config, &attachment.args, request.version)?.result),
    // There is nothing to give back and no state to collect, so nothing of the configuration is looked at either.
    del: |_, _| Ok(()),
    check: check::check,
    gc: |_, _| Ok(()),
    // An ADD fails if the configuration is wrong, and only then.
    status: |request| Ok(Settings::resolve(&request.config, &CniArgs::default(), request.version).map(drop)?),
};

fn main() -> ExitCode {
    cni_plugin::main(&PLUGIN)
}
