//! The CNI plugin `vrf`: puts the container's interface into a VRF, with its addresses and routes. Chained.
#![cfg_attr(fuzzing, no_main, allow(dead_code, unused_imports))]

mod add;
mod check;
mod config;
mod del;
mod enslave;
#[cfg(any(test, fuzzing))]
mod properties;
mod settings;
mod status;

use std::process::ExitCode;

use cni_plugin::{Plugin, REFERENCE_RELEASE, SpecVersion};

fn main() -> ExitCode {
    cni_plugin::main(&Plugin {
        name: "vrf",
        release: REFERENCE_RELEASE,
        versions: SpecVersion::ALL,
        add: add::add,
        del: del::del,
        check: check::check,
        // Everything is in the container's namespace and goes with it: nothing is left on the node.
        gc: |_, _| Ok(()),
        status: status::status,
    })
}
