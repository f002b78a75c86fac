//! The CNI plugin `firewall`: lets containers' traffic through the node's firewall, and keeps networks apart.
#![cfg_attr(fuzzing, no_main, allow(dead_code, unused_imports))]

mod add;
mod check;
mod config;
mod del;
mod gc;
mod plan;
#[cfg(any(test, fuzzing))]
mod properties;
mod settings;
mod status;

use std::process::ExitCode;

use cni_plugin::{Plugin, REFERENCE_RELEASE, SpecVersion};

fn main() -> ExitCode {
    cni_plugin::main(&Plugin {
        name: "firewall",
        release: REFERENCE_RELEASE,
        // As in the Go plugin, which refuses anything older.
        versions: &[SpecVersion::V0_4_0, SpecVersion::V1_0_0, SpecVersion::V1_1_0],
        add: add::add,
        del: del::del,
        check: check::check,
        gc: gc::gc,
        status: status::status,
    })
}
