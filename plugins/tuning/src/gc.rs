//! GC: removes the backups of attachments of this network that the runtime no longer knows.

use cni_plugin::{CniError, Owner, Request, Undecoded};

use crate::backup::Store;

/// Collects. Nothing is put back: what was changed is in namespaces that nobody has a name for any more.
pub fn gc(request: &Request<Undecoded>, valid: &[Owner]) -> Result<(), CniError> {
    Ok(Store::of(&request.config)?.retain(&request.network, valid)?)
}
