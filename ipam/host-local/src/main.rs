//! host-local: hands out addresses from ranges and keeps its state in files on the node, shared with the Go plugin.
//!
//! The keys of `ipam` are the Go plugin's (`subnet`, `rangeStart`, `rangeEnd`, `gateway` or lists of them in `ranges`;
//! `routes`, `resolvConf`, `dataDir`), the capabilities `ipRanges` and `ips`, `args.cni.ips` and `IP` in `CNI_ARGS`. One
//! is new: `"reclaimAfterReboot": true` gives up, at the first call after the node started, the reservations that are
//! older than the start; without it they stay until DEL or GC, as with the Go plugin. A network is one directory: give
//! the key only where no containers on the network survive a restart of the node.
//!
//! `<dataDir>/.host-local/<network>` is a cache ([`store`]); it may be deleted at any time.
#![cfg_attr(fuzzing, no_main, allow(dead_code, unused_imports))]

mod add;
mod check;
mod config;
mod del;
mod gc;
mod pool;
#[cfg(any(test, fuzzing))]
mod properties;
mod resolv_conf;
mod settings;
mod status;
mod store;

use std::process::ExitCode;

use cni_plugin::{Plugin, REFERENCE_RELEASE, SpecVersion};

fn main() -> ExitCode {
    cni_plugin::main(&Plugin {
        name: "host-local",
        release: REFERENCE_RELEASE,
        versions: SpecVersion::ALL,
        add: add::add,
        del: del::del,
        check: check::check,
        gc: gc::gc,
        status: status::status,
    })
}
