//! GC: withdraws the names of attachments of this network that the runtime no longer knows.

use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Lock, Owner, Request};

use crate::add::settle;
use crate::config::Config;
use crate::place::Place;

/// Removes files and redirections, in both backends. Idempotent.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let settled = Lock::settle_orphans(&request.network);
    let redirects = Netfilter::new().retain_dns_redirect(&request.network, valid);
    let place = Place::new();
    if place.exists() {
        let _lock = place.lock()?;
        let failed = |error| CniError::plugin(format!("cannot remove names from {:?}: {error}", place.path()));
        place.retain(&request.network, valid).map_err(failed)?;
        settle(&place)?;
    }
    redirects?;
    Ok(settled?)
}
