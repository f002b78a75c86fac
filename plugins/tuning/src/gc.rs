//! GC: removes the backups of attachments of this network that the runtime no longer knows.

use cni_plugin::{CniError, Owner, Request};

use crate::backup::Store;
use crate::config::Config;

/// Collects. Nothing is put back: what was changed is in namespaces that nobody has a name for any more.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    Ok(Store::new(request.config.data_dir()?).retain(&request.network, valid)?)
}
