//! The CNI plugin `dummy`: gives a container a link that only has addresses.
#![cfg_attr(fuzzing, no_main, allow(dead_code, unused_imports))]

mod add;
mod check;
mod config;
#[cfg(any(test, fuzzing))]
mod properties;
mod settings;
mod status;

use std::process::ExitCode;

use cni_attach::single;
use cni_plugin::{Plugin, REFERENCE_RELEASE, SpecVersion};

/// What the kernel calls the container's link.
const KIND: &str = "dummy";

fn main() -> ExitCode {
    cni_plugin::main(&Plugin {
        name: "dummy",
        release: REFERENCE_RELEASE,
        versions: SpecVersion::ALL,
        add: add::add,
        // There is nothing of an attachment but the link.
        del: |request, detachment| single::del(request, detachment, KIND, &request.config.ipam),
        check: check::check,
        gc: |request, valid| single::gc(request, valid, &request.config.ipam),
        status: status::status,
    })
}
