//! STATUS: fails if an ADD would fail now, and only then.

use cni_attach::forwarding;
use cni_net::{NetError, Netlink, no_ipv6};
use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Request};
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::settings::Settings;

/// Checks the configuration, the kernel, the packet filter and IPAM.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    node(&request.config).map_err(CniError::unavailable)?;
    settings.masquerade.status(&Netfilter::new(), &request.config.ipam)?;
    request.ipam(&settings.ipam).status()
}

/// Checks, in the families of host-local's ranges, that the node's end of a new pair can have an address and that the node can
/// forward.
fn node(config: &Config) -> Result<(), CniError> {
    let subnets: Vec<IpNetwork> = config.ipam.range_sets().into_iter().flatten().map(|(subnet, _)| subnet).collect();
    if let Some(address) = subnets.iter().find(|subnet| subnet.is_ipv6())
        && let Some(why) = no_ipv6(None)
    {
        return Err(NetError::NoIpv6 { address: *address, name: "the node's end of the pair".to_owned(), why }.into());
    }
    Ok(forwarding::probe(&Netlink::open()?, subnets.iter().map(IpNetwork::ip))?)
}
