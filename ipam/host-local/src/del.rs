//! DEL: releases whatever the owner holds.

use cni_plugin::{CniError, Detachment, Request};

use crate::config::Config;
use crate::pool::Address;
use crate::settings;
use crate::store::FirstFailure;

/// Releases every address of the owner, whatever the configured ranges say. Idempotent.
///
/// Each file is read before it is removed: only one that names the owner goes.
pub(crate) fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    let owner = &detachment.owner;
    let Some(mut store) = settings::place(request)?.open_to_release(owner)? else { return Ok(()) };
    let mut failure = FirstFailure::default();
    for ip in store.held_by(owner, &Address::reported(request.prev_result.as_ref(), &owner.ifname))? {
        failure.note(store.release(ip, |holder| holder.is(owner) || holder.is_container_of(owner)));
    }
    Ok(failure.verdict()?)
}
