//! The CNI plugin `dnsname`: containers of a network find each other by name, and, as `dnsname resolver`, the process that answers
//! them.
#![cfg_attr(fuzzing, no_main, allow(dead_code, unused_imports))]

mod add;
mod check;
mod client;
mod config;
mod del;
mod gc;
mod name;
mod place;
mod plan;
#[cfg(any(test, fuzzing))]
mod properties;
mod record;
mod resolver;
mod settings;
mod status;
mod wire;

use std::process::ExitCode;

use cni_plugin::{Plugin, REFERENCE_RELEASE, SpecVersion};

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == "resolver") {
        return resolver::main();
    }
    cni_plugin::main(&Plugin {
        name: "dnsname",
        release: REFERENCE_RELEASE,
        versions: SpecVersion::ALL,
        add: add::add,
        del: del::del,
        check: check::check,
        gc: gc::gc,
        status: status::status,
    })
}
