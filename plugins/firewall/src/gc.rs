//! GC: removes the accepts of attachments of this network that the runtime no longer knows.

use cni_plugin::{CniError, Lock, Owner, Request};

use crate::config::Config;

/// Removes the accepts of all attachments that are not in `valid`. Waits first for processes that a killed call left running, and
/// kills them if they take too long; if it can't kill them, it removes the accepts nevertheless, and the error names the processes.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let settled = Lock::settle_orphans(&request.network);
    request.config.firewall().retain(&request.network, valid)?;
    Ok(settled?)
}
