//! The CNI plugin `firewall`: lets containers' traffic through the node's firewall, and keeps networks apart.

mod add;
mod backend;
mod check;
mod config;
mod del;
mod firewalld;
mod gc;
mod plan;
mod settings;
mod status;

use std::process::ExitCode;

use cni_plugin::{Attachment, CniError, CniResult, Detachment, Owner, Plugin, Request, SpecVersion, Undo};

use crate::config::Config;

struct Firewall;

impl Plugin for Firewall {
    const NAME: &'static str = "firewall";
    // As in the Go plugin, which refuses anything older.
    const VERSIONS: &'static [SpecVersion] = &[SpecVersion::V0_4_0, SpecVersion::V1_0_0, SpecVersion::V1_1_0];
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
    cni_plugin::main(&Firewall)
}
