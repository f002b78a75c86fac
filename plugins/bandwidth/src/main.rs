//! The CNI plugin `bandwidth`: limits the rate of what a container receives and sends, as a link of a chain.
#![cfg_attr(fuzzing, no_main, allow(dead_code, unused_imports))]

mod add;
mod check;
mod config;
mod del;
mod gc;
mod host;
mod ifb;
mod plan;
#[cfg(any(test, fuzzing))]
mod properties;
mod settings;
mod status;

use std::process::ExitCode;

use cni_plugin::{Plugin, REFERENCE_RELEASE, SpecVersion};

fn main() -> ExitCode {
    cni_plugin::main(&Plugin {
        name: "bandwidth",
        release: REFERENCE_RELEASE,
        versions: SpecVersion::ALL,
        add: add::add,
        del: del::del,
        check: check::check,
        gc: gc::gc,
        status: status::status,
    })
}
