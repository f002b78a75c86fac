//! host-local: hands out addresses from ranges and keeps its state in files on the node, shared with the Go plugin.
//!
//! The keys of `ipam` are the Go plugin's (`subnet`, `rangeStart`, `rangeEnd`, `gateway` or lists of them in `ranges`;
//! `routes`, `resolvConf`, `dataDir`), the capabilities `ipRanges` and `ips`, `args.cni.ips` and `IP` in `CNI_ARGS`. One
//! is ours: `"reclaimAfterReboot": true` gives up, at the first call after the node started, the reservations that are
//! older than the start; without it they stay until DEL or GC, as with the Go plugin. A network is one directory: give
//! the key only where no containers on the network survive a restart of the node.
//!
//! `<dataDir>/.host-local/<network>` is a cache ([`store`]); it may be deleted at any time.

mod add;
mod address;
mod allocator;
mod check;
mod config;
mod del;
mod gc;
mod range;
mod resolv_conf;
mod settings;
mod status;
mod store;
mod told;

// What the fuzz targets hold host-local to.
#[cfg(test)]
#[path = "../fuzz/src/properties/mod.rs"]
mod properties;
#[cfg(test)]
mod seeds;

use std::process::ExitCode;

use cni_plugin::{CniError, Plugin, REFERENCE_RELEASE, Request, SpecVersion};

use config::Config;
use store::Place;

/// Where the request's state is.
fn place(request: &Request<Config>) -> Result<Place, CniError> {
    request.config.reclaim_after_reboot()?;
    place_left(request)
}

/// As [`place`], for the verbs that must work with what ADD refuses.
fn place_left(request: &Request<Config>) -> Result<Place, CniError> {
    Ok(Place {
        data_dir: request.config.data_dir()?,
        network: request.network.clone(),
        reclaim_after_reboot: request.config.reclaim_after_reboot().unwrap_or_default(),
    })
}

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
