//! The CNI plugin `tuning`: sets sysctls of a container's namespace and attributes of its interface, as a link of a chain,
//! and puts them back.

mod add;
mod allow;
mod backup;
mod check;
mod config;
mod del;
mod gc;
mod plan;
mod restore;
mod settings;

use std::process::ExitCode;

use cni_plugin::{Attachment, CniArgs, CniError, CniResult, Detachment, Owner, Plugin, Request, Undo};

use crate::config::Config;
use crate::settings::Settings;

struct Tuning;

impl Plugin for Tuning {
    const NAME: &'static str = "tuning";
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

    /// The configuration and the node's allow list decide whether an ADD can succeed.
    fn status(&self, request: &Request<Config>) -> Result<(), CniError> {
        allow::permit(&Settings::resolve(request, &CniArgs::default())?)
    }
}

fn main() -> ExitCode {
    cni_plugin::main(&Tuning)
}
