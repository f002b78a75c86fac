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

use cni_plugin::{Attachment, CniError, CniResult, Detachment, Owner, Plugin, Request, Undo};

use config::Config;
use store::Place;

struct HostLocal;

impl Plugin for HostLocal {
    const NAME: &'static str = "host-local";
    type Config = Config;

    fn add(&self, request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
        add::add(request, attachment, undo)
    }

    fn del(&self, request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
        del::del(request, detachment)
    }

    fn check(&self, request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
        check::check(request, attachment)
    }

    fn gc(&self, request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
        gc::gc(request, valid)
    }

    fn status(&self, request: &Request<Config>) -> Result<(), CniError> {
        status::status(request)
    }
}

/// Where the request's state is.
fn place(request: &Request<Config>) -> Result<Place, CniError> {
    Ok(Place {
        data_dir: request.config.data_dir()?,
        network: request.network.clone(),
        reclaim_after_reboot: request.config.reclaim_after_reboot()?,
    })
}

fn main() -> ExitCode {
    cni_plugin::main(&HostLocal)
}
