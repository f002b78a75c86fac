//! The CNI plugin `loopback`: brings up `lo` in a container's namespace.

mod add;
mod check;
mod del;
mod lo;

use std::process::ExitCode;

use cni_net::Netlink;
use cni_plugin::{CniError, Plugin, REFERENCE_RELEASE, SpecVersion};

fn main() -> ExitCode {
    cni_plugin::main(&Plugin {
        name: "loopback",
        release: REFERENCE_RELEASE,
        versions: SpecVersion::ALL,
        add: add::add,
        del: |_, detachment| del::del(detachment),
        check: check::check,
        // What ADD makes is in the container's namespace and goes with it: nothing is left on the node.
        gc: |_, _| Ok(()),
        // All that ADD needs of the node is the permission to talk to the kernel.
        status: |_| Netlink::open().map(drop).map_err(|error| CniError::from(error).unavailable()),
    })
}
