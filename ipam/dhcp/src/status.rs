//! STATUS: fails when an ADD would fail now.

use cni_plugin::{CniError, Request};

use crate::client;
use crate::config::Config;
use crate::settings;

/// The configuration is right, and a daemon answers or could be started. Whether there is a server shows on the container's link
/// only.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    settings::options(&request.config, None)?;
    client::probe(&settings::socket(&request.config)?).map_err(CniError::unavailable)
}
