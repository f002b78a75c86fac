//! GC: gives back what attachments hold that are no more.

use cni_plugin::{CniError, Owner, Request};

use crate::config::Config;

/// Releases every reservation of the network whose holder isn't in `valid`; everything else in the directory stays.
/// Idempotent.
pub(crate) fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let Some(mut store) = crate::place_left(request)?.open()? else { return Ok(()) };
    store.retain(valid)?;
    Ok(())
}
