//! The CNI plugin `tap`: gives a container a tap device, which a program in it, such as a virtual machine, opens.
#![cfg_attr(fuzzing, no_main, allow(dead_code, unused_imports))]

mod add;
mod check;
mod config;
mod device;
#[cfg(any(test, fuzzing))]
mod properties;
mod settings;
mod status;

use std::process::ExitCode;

use cni_attach::single;
use cni_plugin::{Plugin, REFERENCE_RELEASE, SpecVersion};

fn main() -> ExitCode {
    if let Some(outcome) = device::as_helper() {
        return outcome;
    }
    cni_plugin::main(&Plugin {
        name: "tap",
        release: REFERENCE_RELEASE,
        versions: SpecVersion::ALL,
        add: add::add,
        del: |request, detachment| single::del(request, detachment, device::KIND, &request.config.ipam),
        check: check::check,
        gc: |request, valid| single::gc(request, valid, &request.config.ipam),
        status: status::status,
    })
}
