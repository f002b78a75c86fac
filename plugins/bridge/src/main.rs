//! The CNI plugin `bridge`: wires a container to a Linux bridge with a veth pair, sets addresses and routes, acts as its
//! gateway and masquerades what it sends out.

mod add;
mod check;
mod config;
mod del;
mod gateway;
mod gc;
mod host;
mod names;
mod plan;
mod routed;
mod settings;
mod status;
mod veth;
mod vlan;

use std::process::ExitCode;

use cni_plugin::{Attachment, CniError, CniResult, Detachment, Owner, Plugin, Request, Undo};

use crate::config::Config;

struct Bridge;

impl Plugin for Bridge {
    const NAME: &'static str = "bridge";
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

fn main() -> ExitCode {
    cni_plugin::main(&Bridge)
}
