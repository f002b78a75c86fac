//! STATUS: says no when an ADD would fail now.

use cni_net::Netlink;
use cni_plugin::{CniError, Family, Request};

use crate::config::Config;
use crate::settings::Settings;

/// Asks the configuration, and the kernel for policy routing.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    Settings::resolve(&request.config)?;
    let asked = Netlink::open().and_then(|socket| socket.rules(Family::V4));
    asked.map(drop).map_err(|error| CniError::from(error).unavailable())
}
