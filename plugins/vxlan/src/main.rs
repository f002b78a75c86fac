//! The CNI plugin `vxlan`: stretches the bridge of the plugin before it over several hosts. Chained.
#![cfg_attr(fuzzing, no_main, allow(dead_code, unused_imports))]

mod add;
mod check;
mod config;
mod del;
mod device;
mod ends;
mod gc;
#[cfg(test)]
mod golden;
mod peers;
mod plan;
#[cfg(any(test, fuzzing))]
mod properties;
mod settings;
mod status;
mod underlay;

use std::process::ExitCode;

use cni_plugin::{Plugin, REFERENCE_RELEASE, SpecVersion};

fn main() -> ExitCode {
    cni_plugin::main(&Plugin {
        name: "vxlan",
        release: REFERENCE_RELEASE,
        versions: SpecVersion::ALL,
        add: add::add,
        del: del::del,
        check: check::check,
        gc: gc::gc,
        status: status::status,
    })
}
