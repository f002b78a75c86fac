//! DEL: gives back whatever the owner holds.

use cni_plugin::{CniError, Detachment, Request};

use crate::config::Config;
use crate::store::FirstFailure;
use crate::told::told;

/// Releases every address of the owner, whatever the configured ranges say. Idempotent.
///
/// Each file is read before it is removed: only one that names the owner goes.
pub(crate) fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    let owner = &detachment.owner;
    let Some(mut store) = crate::place_left(request)?.open_to_release(owner)? else { return Ok(()) };
    let mut failure = FirstFailure::default();
    for ip in store.held_by(owner, &told(request.prev_result.as_ref(), &owner.ifname))? {
        failure.note(store.release(ip, |holder| holder.is(owner) || holder.is_legacy_of(owner)));
    }
    Ok(failure.verdict()?)
}
