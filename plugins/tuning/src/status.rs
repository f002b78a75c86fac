//! STATUS: says no when an ADD would fail now.

use cni_plugin::{CniArgs, CniError, Request, Undecoded};

use crate::allow;
use crate::backup::Store;
use crate::settings::Settings;

/// Asks the configuration, the node's allow list, and whether a backup could be written where there is something to set.
pub fn status(request: &Request<Undecoded>) -> Result<(), CniError> {
    let settings = Settings::resolve(request, &CniArgs::default())?;
    allow::permit(&settings)?;
    let store = Store::of(&request.config)?;
    if settings.is_empty() {
        return Ok(());
    }
    store.probe().map_err(|error| CniError::from(error).unavailable())
}
