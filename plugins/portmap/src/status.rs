//! STATUS: fails when an ADD with ports would fail now.

use cni_net::localnet;
use cni_netfilter::{Netfilter, Purpose};
use cni_plugin::{CniError, Request, code};

use crate::config::Config;
use crate::settings::Settings;

/// Examines the configuration and the packet filter. A missing guard of 127.0.0.0/8 is written to stderr only: the next ADD
/// restores it.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    let filter = Netfilter::new();
    if !settings.nat {
        return filter.can_add_open_ports().map_err(|error| CniError { code: code::UNAVAILABLE, ..error.into() });
    }
    let chosen = filter.choose(settings.backend, Purpose::Ports, &[]);
    let usable = chosen.and_then(|backend| filter.can_add_ports(backend, settings.external_chain()));
    let usable = usable.and_then(|()| if settings.shares { filter.can_share_ports() } else { Ok(()) });
    usable.map_err(|error| CniError { code: code::UNAVAILABLE, ..error.into() })?;
    if localnet::needs_guard([]) {
        filter.warn_of_missing_localnet_guard()?;
    }
    Ok(())
}
