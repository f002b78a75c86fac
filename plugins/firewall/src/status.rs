//! STATUS: says no when an ADD would fail now, or when somebody else drops what it would accept.

use cni_plugin::{CniError, Request, code, verdict};

use crate::config::Config;
use crate::settings::Settings;

/// Asks the configuration, the packet filter and firewalld.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    Settings::resolve(&request.config)?;
    let obstacles = request.config.firewall().obstacles().map_err(|error| CniError::from(error).unavailable())?;
    verdict(&obstacles).map_err(|error| CniError { code: code::UNAVAILABLE_LIMITED, ..error })
}
