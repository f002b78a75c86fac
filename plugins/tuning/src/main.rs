//! The CNI plugin `tuning`: a chained plugin that sets sysctls of a container's namespace and attributes of its interface, and
//! restores them.
#![cfg_attr(fuzzing, no_main, allow(dead_code, unused_imports))]

mod add;
mod allow_list;
mod backup;
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
        name: "tuning",
        release: REFERENCE_RELEASE,
        versions: SpecVersion::ALL,
        add: add::add,
        del: del::del,
        check: check::check,
        gc: gc::gc,
        status: status::status,
    })
}
