//! STATUS: says no when an ADD would fail now, and only then.

use cni_net::{Family, Link, Netlink, localnet};
use cni_netfilter::{Netfilter, Purpose};
use cni_plugin::{CniArgs, CniError, IfName, Request};

use crate::config::Config;
use crate::settings::Settings;
use crate::{gateway, host};

/// Asks the configuration, the kernel, the packet filter and IPAM.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config, &CniArgs::default(), request.version)?;
    links(&settings, &request.config).map_err(CniError::unavailable)?;
    let filter = Netfilter::new();
    if settings.mac_guard {
        filter.can_guard_macs().map_err(|error| CniError::unavailable(error.into()))?;
    }
    if settings.masquerade {
        let mut networks = request.config.ipam.subnets();
        networks.retain(|network| settings.masquerade_families.contains(&Family::of(network.ip())));
        let chosen = filter.choose(settings.backend, Purpose::Masquerade, &networks);
        let usable = chosen.and_then(|backend| filter.usable(backend, Purpose::Masquerade, &networks));
        usable.map_err(|error| CniError::unavailable(error.into()))?;
    }
    if localnet::needs_guard([settings.bridge.as_str()]) {
        filter.warn_of_unguarded_localnet()?;
    }
    match settings.ipam() {
        Some(plugin) => request.ipam(plugin).status(),
        None => Ok(()),
    }
}

/// The bridge and the gateway, which a network without addresses has none of.
fn links(settings: &Settings, config: &Config) -> Result<(), CniError> {
    let socket = Netlink::open()?;
    let bridge = host::find_bridge(&socket, &settings.bridge)?;
    host::probe(&socket, settings, bridge.as_ref())?;
    if settings.gateway && settings.ipam().is_some() {
        let link = gateway_link(&socket, settings, bridge)?;
        gateway::probe(&socket, settings, config, link.as_ref())?;
    }
    Ok(())
}

/// The link that has the gateway's addresses, if it is there.
fn gateway_link(socket: &Netlink, settings: &Settings, bridge: Option<Link>) -> Result<Option<Link>, CniError> {
    let name: IfName = bridge.as_ref().map_or(settings.bridge.as_str(), |bridge| &bridge.name).parse()?;
    match gateway::vlan_link_name(settings, &name)? {
        Some(name) => Ok(gateway::find_vlan_link(socket, &name)?),
        None => Ok(bridge),
    }
}
