//! STATUS: says no when an ADD would fail now.

use cni_net::Netlink;
use cni_netfilter::Netfilter;
use cni_plugin::{CniArgs, CniError, Ipam, Request, code};

use crate::config::Config;
use crate::host;
use crate::settings::Settings;

/// Asks the configuration, the kernel, the packet filter and IPAM.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config, &CniArgs::default(), request.version)?;
    let unavailable = |error: CniError| CniError { code: code::UNAVAILABLE, ..error };
    let socket = Netlink::open()?;
    host::find_bridge(&socket, &settings.bridge).map_err(|error| unavailable(error.into()))?;
    if settings.masquerade {
        let filter = Netfilter::new();
        let backend = filter.choose(settings.backend).map_err(|error| unavailable(error.into()))?;
        filter.usable(backend).map_err(|error| unavailable(error.into()))?;
    }
    match settings.ipam() {
        Some(plugin) => Ipam::new(&request.delegates, plugin, request.version).status(),
        None => Ok(()),
    }
}
