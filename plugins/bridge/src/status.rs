//! STATUS: fails if an ADD would fail now, and only then.

use cni_net::{Link, Netlink, localnet};
use cni_netfilter::Netfilter;
use cni_plugin::{CniArgs, CniError, IfName, Request};

use crate::config::Config;
use crate::settings::Settings;
use crate::{bridge, gateway};

/// Checks the configuration, the kernel, the packet filter and IPAM.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config, &CniArgs::default(), request.version)?;
    links(&settings, &request.config).map_err(CniError::unavailable)?;
    let filter = Netfilter::new();
    if settings.mac_guard {
        filter.can_add_mac_guard().map_err(|error| CniError::unavailable(error.into()))?;
    }
    settings.masquerade.status(&filter, &request.config.ipam)?;
    if localnet::needs_guard([settings.bridge.as_str()]) {
        filter.warn_of_missing_localnet_guard()?;
    }
    match settings.ipam() {
        Some(plugin) => request.ipam(plugin).status(),
        None => Ok(()),
    }
}

/// The bridge and, unless the network is layer 2 only, the gateway.
fn links(settings: &Settings, config: &Config) -> Result<(), CniError> {
    let host = Netlink::open()?;
    let bridge = bridge::find(&host, &settings.bridge)?;
    bridge::probe(&host, settings, bridge.as_ref())?;
    if settings.gateway && settings.ipam().is_some() {
        let link = gateway_link(&host, settings, bridge)?;
        gateway::probe(&host, settings, config, link.as_ref())?;
    }
    Ok(())
}

/// The link that has the gateway's addresses, if it is there.
fn gateway_link(host: &Netlink, settings: &Settings, bridge: Option<Link>) -> Result<Option<Link>, CniError> {
    let name: IfName = bridge.as_ref().map_or(settings.bridge.as_str(), |bridge| &bridge.name).parse()?;
    match gateway::vlan_link_name(settings, &name)? {
        Some(name) => Ok(gateway::find_vlan_link(host, &name)?),
        None => Ok(bridge),
    }
}
