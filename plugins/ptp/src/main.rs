//! The CNI plugin `ptp`: connects a container to the node with a veth pair of its own, over which the node routes.
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
        name: "ptp",
        release: REFERENCE_RELEASE,
        versions: SpecVersion::ALL,
        add: add::add,
        del: del::del,
        check: check::check,
        gc: gc::gc,
        status: status::status,
    })
}
