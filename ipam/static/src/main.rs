//! The CNI plugin `static`: an IPAM plugin that returns the addresses it is told, and keeps no state.

mod check;
mod config;
mod settings;

use std::process::ExitCode;

use cni_plugin::{Attachment, CniArgs, CniError, CniResult, Detachment, Owner, Plugin, Request, Undo};

use crate::config::Config;
use crate::settings::Settings;

struct Static;

impl Plugin for Static {
    const NAME: &'static str = "static";
    type Config = Config;

    /// Without an address the result is empty; what to make of that is the caller's business.
    fn add(&self, request: &Request<Config>, attachment: &Attachment, _: &mut Undo) -> Result<CniResult, CniError> {
        Ok(Settings::resolve(&request.config, &attachment.args, request.version)?.result)
    }

    /// There is nothing to give back, so nothing of the configuration is looked at either.
    fn del(&self, _: &Request<Config>, _: &Detachment) -> Result<(), CniError> {
        Ok(())
    }

    fn check(&self, request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
        check::check(request, attachment)
    }

    /// There is no state to collect.
    fn gc(&self, _: &Request<Config>, _: &[Owner]) -> Result<(), CniError> {
        Ok(())
    }

    /// An ADD fails if the configuration is wrong, and only then.
    fn status(&self, request: &Request<Config>) -> Result<(), CniError> {
        Ok(Settings::resolve(&request.config, &CniArgs::default(), request.version).map(drop)?)
    }
}

fn main() -> ExitCode {
    cni_plugin::main(&Static)
}
