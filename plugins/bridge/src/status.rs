//! STATUS: says no when an ADD would fail now.

use cni_net::{Family, Netlink, localnet};
use cni_netfilter::Netfilter;
use cni_plugin::{CniArgs, CniError, Request};
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::settings::Settings;
use crate::{gateway, host, routed};

/// Asks the configuration, the kernel, the packet filter and IPAM.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config, &CniArgs::default(), request.version)?;
    let unavailable = CniError::unavailable;
    let socket = Netlink::open()?;
    let bridge = host::find_bridge(&socket, &settings.bridge).map_err(|error| unavailable(error.into()))?;
    if let Some(bridge) = &bridge {
        host::refuse_without_filtering(&settings, bridge).map_err(|error| unavailable(error.into()))?;
    }
    let name = bridge.as_ref().map_or(settings.bridge.as_str(), |bridge| &bridge.name).parse()?;
    let mut own = bridge.map(|bridge| bridge.index);
    if let Some(name) = gateway::vlan_link_name(&settings, &name)? {
        own =
            gateway::find_vlan_link(&socket, &name).map_err(|error| unavailable(error.into()))?.map(|link| link.index);
    }
    if settings.gateway {
        routed::refuse(&socket, &request.config, own).map_err(unavailable)?;
        gateway::refuse(&socket, &settings, &request.config, own).map_err(unavailable)?;
    }
    let filter = Netfilter::new();
    if settings.mac_guard {
        filter.can_guard_macs().map_err(|error| unavailable(error.into()))?;
    }
    if settings.masquerade {
        let backend = filter.choose(settings.backend).map_err(|error| unavailable(error.into()))?;
        let ipv6 = settings.masquerade_families.contains(&Family::V6)
            && request.config.ipam.subnets().iter().any(IpNetwork::is_ipv6);
        filter.usable(backend, ipv6).map_err(|error| unavailable(error.into()))?;
    }
    if localnet::needs_guard([name.as_str()]) {
        filter.warn_of_unguarded_localnet()?;
    }
    match settings.ipam() {
        Some(plugin) => request.ipam(plugin).status(),
        None => Ok(()),
    }
}
