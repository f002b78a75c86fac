//! GC: removes the backups of attachments of this network that the runtime no longer knows.

use cni_plugin::{CniError, Owner, Request};

use crate::backup::Store;
use crate::config::Config;

/// Removes the backups; idempotent. Restores nothing: the runtime no longer knows the namespaces with the changed values.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    Ok(Store::of(&request.config)?.retain(&request.network, valid)?)
}
