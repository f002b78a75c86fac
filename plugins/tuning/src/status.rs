//! STATUS: fails where an ADD would fail now.

use cni_plugin::{CniArgs, CniError, Request};

use crate::allow_list;
use crate::backup::Store;
use crate::config::Config;
use crate::settings::Settings;

/// Checks the configuration, the node's allow list and, if there is something to set, that a backup can be written.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(request, &CniArgs::default())?;
    allow_list::permit(&settings)?;
    let store = Store::of(&request.config)?;
    if settings.is_empty() {
        return Ok(());
    }
    store.probe().map_err(|error| CniError::from(error).unavailable())
}
