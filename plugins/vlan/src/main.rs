//! The CNI plugin `vlan`: gives a container the packets of a link of the node that have a VLAN ID.
#![cfg_attr(fuzzing, no_main, allow(dead_code, unused_imports))]

mod add;
mod check;
mod config;
#[cfg(any(test, fuzzing))]
mod properties;
mod settings;
mod status;

use std::process::ExitCode;

use cni_attach::parent;
use cni_plugin::{Plugin, REFERENCE_RELEASE, SpecVersion};

/// What the kernel calls the container's link.
const KIND: &str = "vlan";

fn main() -> ExitCode {
    cni_plugin::main(&Plugin {
        name: "vlan",
        release: REFERENCE_RELEASE,
        versions: SpecVersion::ALL,
        add: add::add,
        // There is nothing of an attachment but the link and what it is on.
        del: |request, detachment| parent::del(request, detachment, KIND, &request.config.ipam),
        check: check::check,
        gc: |request, valid| parent::gc(request, valid, &request.config.ipam),
        status: status::status,
    })
}
