//! The node as the containers' gateway: addresses on the bridge, or on an interface of its own in the containers' VLAN,
//! and forwarding. Shared, and never taken back.

use std::net::IpAddr;

use cni_net::{
    AddressOptions, Family, Link, LinkChange, NetError, NetNs, Netlink, VethEnd, VethSpec, forwarding, random_mac,
    sysctl,
};
use cni_plugin::{CniError, IfName, MacAddr, sha512_hex};
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::host::{self, BridgeLink, HostError};
use crate::plan::{conflicts, first_address};
use crate::routed;
use crate::settings::Settings;
use crate::veth;

/// The link that has the gateway's addresses.
#[derive(Debug, Clone)]
pub struct GatewayLink {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: IfName,
    /// Its hardware address.
    pub mac: MacAddr,
}

/// Makes the node the containers' gateway; nothing if it isn't to be one. Idempotent.
pub fn ensure(
    socket: &Netlink,
    settings: &Settings,
    bridge: &BridgeLink,
    gateways: &[IpNetwork],
) -> Result<Option<GatewayLink>, HostError> {
    if gateways.is_empty() {
        return Ok(None);
    }
    let link = ensure_link(socket, settings, bridge)?;
    ensure_addresses(socket, settings, &link, gateways)?;
    Ok(Some(link))
}

/// Makes sure of the link that is to have the gateway's addresses: the bridge itself or, where the containers are in a
/// VLAN, the interface `<bridge>.<vlan>`. Idempotent, also beside others that do the same.
fn ensure_link(socket: &Netlink, settings: &Settings, bridge: &BridgeLink) -> Result<GatewayLink, HostError> {
    match vlan_link_name(settings, &bridge.name)? {
        None => Ok(GatewayLink { index: bridge.index, name: bridge.name.clone(), mac: bridge.mac }),
        Some(name) => ensure_vlan_link(socket, settings, bridge, &name),
    }
}

/// `<bridge>.<vlan>` where the gateway is that interface, by the bridge's own name: the configuration may have an
/// alternative one.
pub fn vlan_link_name(settings: &Settings, bridge: &IfName) -> Result<Option<IfName>, HostError> {
    match &settings.vlan_gateway {
        Some(name) if *bridge == settings.bridge => Ok(Some(name.clone())),
        Some(_) => settings.gateway_name(bridge).map_err(HostError::Name),
        None => Ok(None),
    }
}

/// A veth pair within the node: one end a port of the bridge in that VLAN, the other one the interface.
fn ensure_vlan_link(
    socket: &Netlink,
    settings: &Settings,
    bridge: &BridgeLink,
    name: &IfName,
) -> Result<GatewayLink, HostError> {
    let link = match find_vlan_link(socket, name)? {
        Some(link) => link,
        None => create_vlan_link(socket, settings, bridge, name)?,
    };
    if let Some(port) = host::other_end(socket, &link)? {
        ensure_port(socket, settings, bridge, (name, &port))?;
    }
    host::ignore_router_advertisements(name)?;
    if !link.up {
        socket.change_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    }
    Ok(GatewayLink { index: link.index, name: name.clone(), mac: link.mac.unwrap_or(MacAddr([0; 6])) })
}

/// The pair's other end as a port of the bridge, in its VLAN. Idempotent, and on each ADD: whoever made the pair may have
/// been killed before it came to this, and a port whose bridge is deleted stays behind.
fn ensure_port(
    socket: &Netlink,
    settings: &Settings,
    bridge: &BridgeLink,
    (name, port): (&IfName, &Link),
) -> Result<(), HostError> {
    let Some(vlans) = settings.gateway_port() else { return Ok(()) };
    if port.master.is_some_and(|master| master != bridge.index) {
        let (name, port) = (name.clone(), port.name.clone());
        return Err(HostError::GatewayElsewhere { name, port, bridge: bridge.name.clone() });
    }
    host::ignore_router_advertisements(&port.name.parse().map_err(HostError::Name)?)?;
    let change = LinkChange {
        master: port.master.is_none().then_some(Some(bridge.index)),
        up: (!port.up).then_some(true),
        ..LinkChange::default()
    };
    if change != LinkChange::default() {
        socket.change_link(port.index, &change)?;
    }
    veth::set_vlans(socket, port.index, &vlans, bridge.default_vlan)
}

/// The interface of that name, which must be one that can be in a VLAN of the bridge: a veth, or an 802.1Q link that
/// the node's administrator made.
pub fn find_vlan_link(socket: &Netlink, name: &IfName) -> Result<Option<Link>, HostError> {
    match socket.link_by_name(name.as_str())? {
        Some(link) if !matches!(link.kind.as_deref(), Some("veth" | "vlan")) => {
            let kind = link.kind.unwrap_or_else(|| "physical device".to_owned());
            Err(HostError::NotAVlanLink { name: name.clone(), kind })
        }
        found => Ok(found),
    }
}

fn create_vlan_link(
    socket: &Netlink,
    settings: &Settings,
    bridge: &BridgeLink,
    name: &IfName,
) -> Result<Link, HostError> {
    let here = NetNs::current()?;
    let port: IfName =
        format!("veth{}", sha512_hex(&[name.as_str(), "gateway"], 8)).parse().map_err(HostError::Name)?;
    let end = |name| Ok::<_, HostError>(VethEnd { name, mtu: Some(bridge.mtu), mac: Some(random_mac()?) });
    let mut spec = VethSpec::new(end(port)?, end(name.clone())?, &here);
    spec.master = Some(bridge.index);
    match socket.create_veth(&spec) {
        // Another ADD was faster; its link is as good.
        Ok(_) | Err(NetError::Exists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    find_vlan_link(socket, name)?.ok_or_else(|| HostError::Vanished(settings.bridge.clone()))
}

/// Gives the link the gateways' addresses and lets the node forward in their families. Idempotent.
fn ensure_addresses(
    socket: &Netlink,
    settings: &Settings,
    link: &GatewayLink,
    gateways: &[IpNetwork],
) -> Result<(), HostError> {
    let mut present = addresses(socket, link)?;
    if make_room(socket, settings, link, gateways, &present)? {
        // Some more may have gone: the kernel deletes the first IPv4 address of a subnet with the later ones.
        present = addresses(socket, link)?;
    }
    for wanted in gateways.iter().filter(|wanted| !present.contains(wanted)) {
        routed::warn(socket, *wanted, link.index);
        // The gateway must answer at once, not after a second of duplicate address detection.
        socket.add_address(link.index, *wanted, &AddressOptions { no_dad: true, ..AddressOptions::default() })?;
    }
    for family in Family::ALL {
        if gateways.iter().any(|gateway| Family::of(gateway.ip()) == family) {
            forwarding::ensure(family)?;
        }
    }
    Ok(())
}

/// STATUS: says no where the gateways that host-local's first addresses will have can't be addresses of this link, which
/// may not be there yet.
pub fn refuse(socket: &Netlink, settings: &Settings, config: &Config, link: Option<u32>) -> Result<(), CniError> {
    let subnets = config.ipam.first_subnets().into_iter();
    let on_bridge = |(subnet, gateway): (IpNetwork, Option<IpAddr>)| {
        IpNetwork::new(gateway.unwrap_or_else(|| first_address(subnet)), subnet.prefix()).ok()
    };
    let gateways: Vec<IpNetwork> = subnets.filter_map(on_bridge).collect();
    let link = link.map(|index| socket.link_by_index(index)).transpose()?.flatten();
    if let Some(wanted) = gateways.iter().find(|gateway| gateway.is_ipv6()) {
        let path = format!("net/ipv6/conf/{}/disable_ipv6", link.as_ref().map_or("default", |link| &link.name));
        if sysctl::read(&path).is_ok_and(|value| value != "0") {
            let bridge = &settings.bridge;
            let msg = format!("{bridge} can't have the gateway's address {wanted}: sysctl {path} is not 0");
            return Err(CniError::plugin(msg));
        }
    }
    let Some(link) = link else { return Ok(()) };
    let link = GatewayLink { index: link.index, name: link.name.parse()?, mac: link.mac.unwrap_or(MacAddr([0; 6])) };
    let present = addresses(socket, &link)?;
    in_the_way(settings, &link, &gateways, &present)?;
    Ok(())
}

/// The addresses that must go before the gateways that are missing can come.
fn in_the_way(
    settings: &Settings,
    link: &GatewayLink,
    gateways: &[IpNetwork],
    present: &[IpNetwork],
) -> Result<Vec<IpNetwork>, HostError> {
    let mut found = Vec::new();
    for other in present.iter().filter(|other| !gateways.contains(other)) {
        let is_missing = |wanted: &&IpNetwork| !present.contains(wanted) && conflicts(*other, **wanted);
        let Some(wanted) = gateways.iter().find(is_missing) else { continue };
        if !settings.force_address {
            let bridge = link.name.clone();
            return Err(HostError::AddressConflict { bridge, wanted: *wanted, present: *other });
        }
        found.push(*other);
    }
    Ok(found)
}

fn addresses(socket: &Netlink, link: &GatewayLink) -> Result<Vec<IpNetwork>, NetError> {
    Ok(socket.addresses(link.index)?.into_iter().map(|found| found.network).collect())
}

/// Deletes what is in the way of the gateways that are missing, if it may; true if there was anything.
fn make_room(
    socket: &Netlink,
    settings: &Settings,
    link: &GatewayLink,
    gateways: &[IpNetwork],
    present: &[IpNetwork],
) -> Result<bool, HostError> {
    let mut deleted = false;
    for address in in_the_way(settings, link, gateways, present)? {
        deleted |= socket.delete_address(link.index, address)?;
    }
    Ok(deleted)
}
