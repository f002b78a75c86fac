//! The CNI plugin `host-device`: moves a network device of the node into a container, and puts it back as it was.
#![cfg_attr(fuzzing, no_main, allow(dead_code, unused_imports))]

mod add;
mod check;
mod config;
mod del;
mod device;
mod gc;
mod moving;
#[cfg(any(test, fuzzing))]
mod properties;
mod saved;
mod settings;
mod status;

use std::process::ExitCode;

use cni_plugin::{Plugin, REFERENCE_RELEASE, SpecVersion};

fn main() -> ExitCode {
    cni_plugin::main(&Plugin {
        name: "host-device",
        release: REFERENCE_RELEASE,
        versions: SpecVersion::ALL,
        add: add::add,
        del: del::del,
        check: check::check,
        gc: gc::gc,
        status: status::status,
    })
}
