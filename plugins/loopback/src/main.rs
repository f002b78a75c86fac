//! The CNI plugin `loopback`: brings up `lo` in a container's namespace.

mod add;
mod check;
mod del;
mod plan;

use std::process::ExitCode;

use cni_net::Netlink;
use cni_plugin::{Attachment, CniError, CniResult, Detachment, Owner, Plugin, Request, Undo};
use serde::de::IgnoredAny;

struct Loopback;

impl Plugin for Loopback {
    const NAME: &'static str = "loopback";
    /// There are no keys of its own.
    type Config = IgnoredAny;

    fn add(&self, request: &Request<IgnoredAny>, to: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
        add::add(request, to, undo)
    }

    fn del(&self, _: &Request<IgnoredAny>, from: &Detachment) -> Result<(), CniError> {
        del::del(from)
    }

    fn check(&self, request: &Request<IgnoredAny>, of: &Attachment) -> Result<(), CniError> {
        check::check(request, of)
    }

    /// What ADD makes is in the container's namespace and goes with it: nothing is left on the node.
    fn gc(&self, _: &Request<IgnoredAny>, _: &[Owner]) -> Result<(), CniError> {
        Ok(())
    }

    /// All that ADD needs of the node is the permission to talk to the kernel.
    fn status(&self, _: &Request<IgnoredAny>) -> Result<(), CniError> {
        Netlink::open().map(drop).map_err(|error| CniError::from(error).unavailable())
    }
}

fn main() -> ExitCode {
    cni_plugin::main(&Loopback)
}
