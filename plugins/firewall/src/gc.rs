//! GC: closes what was opened for attachments of this network that the runtime no longer knows.

use cni_plugin::{CniError, Lock, Owner, Request};

use crate::config::Config;

/// Collects. What a killed call has left at work is waited for or ended first; if it can't be, the rest is collected all the
/// same and the error says what is at work.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let settled = Lock::settle_orphans(&request.network);
    request.config.firewall().retain(&request.network, valid)?;
    Ok(settled?)
}
