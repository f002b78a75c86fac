//! STATUS: says no when an ADD would fail now, or when somebody else drops what it would accept.

use cni_plugin::{CniError, Request, code, verdict};

use crate::config::Config;
use crate::settings::Settings;

/// Asks the configuration, the packet filter and firewalld. A policy that does not hold is one line on stderr: the next ADD
/// mends it, and a runtime that takes an error for a node that isn't ready would never get to that.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    Settings::resolve(&request.config)?;
    let firewall = request.config.firewall();
    let obstacles = firewall.obstacles().map_err(|error| CniError::from(error).unavailable())?;
    if let Some(missing) = firewall.unheld_policies()?.first() {
        eprintln!("an ingress policy does not hold against networks of legacy iptables until the next ADD: {missing}");
    }
    verdict(&obstacles).map_err(|error| CniError { code: code::UNAVAILABLE_LIMITED, ..error })
}
