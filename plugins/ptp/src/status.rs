//! STATUS: says no when an ADD would fail now, and only then.

use cni_net::{Family, NetError, Netlink, forwarding, no_ipv6};
use cni_netfilter::{Netfilter, Purpose};
use cni_plugin::{CniError, Request};
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::settings::Settings;

/// Asks the configuration, the kernel, the packet filter and IPAM.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    node(&request.config).map_err(CniError::unavailable)?;
    if settings.masquerade {
        let filter = Netfilter::new();
        let (purpose, networks) = (Purpose::Masquerade, request.config.ipam.subnets());
        let chosen = filter.choose(settings.backend, purpose, &networks);
        let usable = chosen.and_then(|backend| filter.usable(backend, purpose, &networks));
        usable.map_err(|error| CniError::from(error).unavailable())?;
    }
    request.ipam(&settings.ipam).status()
}

/// Whether the node's end of a new pair can have an address, and the node can forward, in the families that host-local's
/// ranges are of.
fn node(config: &Config) -> Result<(), CniError> {
    let subnets: Vec<IpNetwork> = config.ipam.range_sets().into_iter().flatten().map(|(subnet, _)| subnet).collect();
    if let Some(address) = subnets.iter().find(|subnet| subnet.is_ipv6())
        && let Some(why) = no_ipv6(None)
    {
        return Err(NetError::NoIpv6 { address: *address, name: "the node's end of the pair".to_owned(), why }.into());
    }
    let socket = Netlink::open()?;
    for family in Family::ALL {
        if subnets.iter().any(|subnet| Family::of(subnet.ip()) == family) {
            forwarding::probe(&socket, family)?;
        }
    }
    Ok(())
}
