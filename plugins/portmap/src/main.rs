//! The CNI plugin `portmap`: publishes container ports on the host.
#![cfg_attr(fuzzing, no_main, allow(dead_code, unused_imports))]

mod add;
mod check;
mod config;
mod conflicts;
mod container_link;
mod del;
mod gc;
mod listener;
mod localnet;
mod mapping;
mod plan;
#[cfg(any(test, fuzzing))]
mod properties;
mod service_addresses;
mod settings;
mod status;

use std::process::ExitCode;

use cni_plugin::{Plugin, REFERENCE_RELEASE, SpecVersion};

fn main() -> ExitCode {
    cni_plugin::main(&Plugin {
        name: "portmap",
        release: REFERENCE_RELEASE,
        versions: SpecVersion::ALL,
        add: add::add,
        del: del::del,
        check: check::check,
        gc: gc::gc,
        status: status::status,
    })
}
