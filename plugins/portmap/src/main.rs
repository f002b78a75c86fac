//! The CNI plugin `portmap`: publishes container ports on the host.
#![cfg_attr(fuzzing, no_main, allow(dead_code, unused_imports))]

mod add;
mod check;
mod config;
mod del;
mod gc;
mod go;
mod link;
mod listener;
mod localnet;
mod plan;
#[cfg(any(test, fuzzing))]
mod properties;
mod service;
mod settings;
mod status;
mod twice;

use std::process::ExitCode;

use cni_plugin::{Plugin, SpecVersion};

fn main() -> ExitCode {
    cni_plugin::main(&Plugin {
        name: "portmap",
        versions: SpecVersion::ALL,
        add: add::add,
        del: del::del,
        check: check::check,
        gc: gc::gc,
        status: status::status,
    })
}
