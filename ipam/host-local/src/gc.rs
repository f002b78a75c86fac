//! GC: releases what attachments hold that are no longer valid.

use cni_plugin::{CniError, Owner, Request};

use crate::config::Config;
use crate::settings;

/// Releases every reservation of the network whose holder isn't in `valid`; everything else in the directory stays.
/// Idempotent.
pub(crate) fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let Some(mut store) = settings::place(request)?.open()? else { return Ok(()) };
    store.retain(valid)?;
    Ok(())
}
