//! STATUS: says no when an ADD would fail now.

use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Request};
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::settings::Settings;

/// Asks the configuration, the packet filter and IPAM.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    if settings.masquerade {
        let filter = Netfilter::new();
        let ipv6 = request.config.ipam.subnets().iter().any(IpNetwork::is_ipv6);
        let usable = filter.choose(settings.backend).and_then(|backend| filter.usable(backend, ipv6));
        usable.map_err(|error| CniError::from(error).unavailable())?;
    }
    request.ipam(&settings.ipam).status()
}
