//! STATUS: says no when an ADD with ports would fail now.

use cni_net::localnet;
use cni_netfilter::{Netfilter, Purpose};
use cni_plugin::{CniError, Request, code};

use crate::config::Config;
use crate::settings::Settings;

/// Asks the configuration and the packet filter. That 127.0.0.0/8 has lost its guard is no reason for an ADD to fail, which
/// restores it, and goes to stderr.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    let filter = Netfilter::new();
    let chosen = filter.choose(settings.backend, Purpose::Ports, &[]);
    let usable = chosen.and_then(|backend| filter.can_publish(backend, settings.external_chain()));
    usable.map_err(|error| CniError { code: code::UNAVAILABLE, ..error.into() })?;
    if localnet::needs_guard([]) {
        filter.warn_of_unguarded_localnet()?;
    }
    Ok(())
}
