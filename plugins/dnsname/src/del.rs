//! DEL: withdraws the names.

use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Detachment, Lock, Request};

use crate::add::withdraw;
use crate::config::Config;
use crate::place::Place;
use crate::plan::redirect_of;

/// Removes the owner's names and the redirection of its questions; idempotent. When it returns, the names are no longer found. The
/// file says what the owner has; without it everything is searched for the owner.
pub fn del(_: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    let owner = &detachment.owner;
    // Processes that a killed ADD has left at work must have ended before.
    let _alone = Lock::if_possible(Lock::of_attachment(owner))?;
    let place = Place::new();
    let record = place.read(owner)?;
    let hint = record.as_ref().map(redirect_of);
    let redirects = Netfilter::new().remove_dns_redirect(owner, hint.as_ref());
    withdraw(&place, owner)?;
    Ok(redirects?)
}
