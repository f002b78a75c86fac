//! The CNI plugin `dhcp`: an IPAM plugin whose addresses come from a DHCP server on the container's link, and, as
//! `dhcp daemon`, the process that keeps the leases while containers run.
#![cfg_attr(fuzzing, no_main, allow(dead_code, unused_imports))]

mod add;
mod check;
mod client;
mod config;
mod daemon;
mod del;
mod gc;
#[cfg(any(test, fuzzing))]
mod properties;
mod settings;
mod status;
mod wire;

use std::process::ExitCode;

use cni_plugin::{Plugin, REFERENCE_RELEASE, SpecVersion};

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == "daemon") {
        return daemon::main();
    }
    cni_plugin::main(&Plugin {
        name: "dhcp",
        release: REFERENCE_RELEASE,
        versions: SpecVersion::ALL,
        add: add::add,
        del: del::del,
        check: check::check,
        gc: gc::gc,
        status: status::status,
    })
}
