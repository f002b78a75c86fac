//! The CNI plugin `macvlan`: gives a container a link with an Ethernet address of its own on a link of the node.
#![cfg_attr(fuzzing, no_main, allow(dead_code, unused_imports))]

mod add;
mod check;
mod config;
mod del;
mod gc;
#[cfg(any(test, fuzzing))]
mod properties;
mod settings;
mod status;

use std::process::ExitCode;

use cni_plugin::{Plugin, REFERENCE_RELEASE, SpecVersion};

/// What the kernel calls the container's link.
const KIND: &str = "macvlan";

fn main() -> ExitCode {
    cni_plugin::main(&Plugin {
        name: "macvlan",
        release: REFERENCE_RELEASE,
        versions: SpecVersion::ALL,
        add: add::add,
        del: del::del,
        check: check::check,
        gc: gc::gc,
        status: status::status,
    })
}
