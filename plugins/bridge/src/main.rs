//! The CNI plugin `bridge`: wires a container to a Linux bridge with a veth pair, sets addresses and routes, acts as its
//! gateway and masquerades its outgoing packets.
#![cfg_attr(fuzzing, no_main, allow(dead_code, unused_imports))]

mod add;
mod bridge;
mod check;
mod config;
mod del;
mod gateway;
mod gc;
#[cfg(test)]
mod golden;
mod ifname_template;
mod mac;
mod plan;
mod port;
#[cfg(any(test, fuzzing))]
mod properties;
mod settings;
mod status;
mod subnet_clash;
mod vlan;

use std::process::ExitCode;

use cni_plugin::{Plugin, REFERENCE_RELEASE, SpecVersion};

fn main() -> ExitCode {
    cni_plugin::main(&Plugin {
        name: "bridge",
        release: REFERENCE_RELEASE,
        versions: SpecVersion::ALL,
        add: add::add,
        del: del::del,
        check: check::check,
        gc: gc::gc,
        status: status::status,
    })
}
