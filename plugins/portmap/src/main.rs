//! The CNI plugin `portmap`: publishes container ports on the host.

mod add;
mod check;
mod config;
mod del;
mod gc;
mod link;
mod listener;
mod localnet;
mod plan;
mod settings;
mod status;

use std::process::ExitCode;

use cni_plugin::{Attachment, CniError, CniResult, Detachment, Owner, Plugin, Request, Undo};

use crate::config::Config;

struct Portmap;

impl Plugin for Portmap {
    const NAME: &'static str = "portmap";
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
    cni_plugin::main(&Portmap)
}
