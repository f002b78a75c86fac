//! The node as the containers' gateway: addresses on the bridge, or on an interface of its own in the containers' VLAN,
//! and forwarding. Containers share it, so a rollback does not remove it.

use std::net::IpAddr;

use cni_attach::forwarding;
use cni_net::{
    AddressOptions, Link, LinkChange, NetError, NetNs, Netlink, Route, VethEnd, VethSpec, no_ipv6, random_mac,
};
use cni_plugin::{CniError, IfName, MacAddr, sha512_hex};
use ipnetwork::IpNetwork;

use crate::bridge::{self, BridgeError, BridgeLink};
use crate::config::Config;
use crate::plan::{Gateway, conflicts, first_address};
use crate::port;
use crate::settings::Settings;
use crate::subnet_clash;

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

/// Makes the node the containers' gateway if the settings say so. Idempotent.
pub fn ensure(
    socket: &Netlink,
    settings: &Settings,
    bridge: &BridgeLink,
    gateways: &[Gateway],
) -> Result<Option<GatewayLink>, BridgeError> {
    if gateways.is_empty() {
        return Ok(None);
    }
    let link = ensure_link(socket, settings, bridge)?;
    ensure_addresses(socket, settings, &link, gateways)?;
    Ok(Some(link))
}

/// Makes sure of the link that is to have the gateway's addresses: the bridge itself or, where the containers are in a
/// VLAN, the interface `<bridge>.<vlan>`. Idempotent, also beside others that do the same.
fn ensure_link(socket: &Netlink, settings: &Settings, bridge: &BridgeLink) -> Result<GatewayLink, BridgeError> {
    match vlan_link_name(settings, &bridge.name)? {
        None => Ok(GatewayLink { index: bridge.index, name: bridge.name.clone(), mac: bridge.mac }),
        Some(name) => ensure_vlan_link(socket, settings, bridge, &name),
    }
}

/// `<bridge>.<vlan>` where the gateway is that interface, by the bridge's own name: the configuration may have an
/// alternative one.
pub fn vlan_link_name(settings: &Settings, bridge: &IfName) -> Result<Option<IfName>, BridgeError> {
    match &settings.vlan_gateway {
        Some(name) if *bridge == settings.bridge => Ok(Some(name.clone())),
        Some(_) => settings.gateway_name(bridge).map_err(BridgeError::Name),
        None => Ok(None),
    }
}

/// A veth pair within the node: one end a port of the bridge in that VLAN, the other one the interface.
fn ensure_vlan_link(
    socket: &Netlink,
    settings: &Settings,
    bridge: &BridgeLink,
    name: &IfName,
) -> Result<GatewayLink, BridgeError> {
    let link = match find_vlan_link(socket, name)? {
        Some(link) => link,
        None => create_vlan_link(socket, settings, bridge, name)?,
    };
    if let Some(port) = bridge::other_end(socket, &link)? {
        ensure_port(socket, settings, bridge, name, &port)?;
    }
    bridge::ignore_router_advertisements(name)?;
    if !link.up {
        socket.change_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    }
    Ok(GatewayLink { index: link.index, name: name.clone(), mac: link.mac.unwrap_or(MacAddr([0; 6])) })
}

/// The pair's other end as a port of the bridge, in its VLAN. Idempotent, and on each ADD: the ADD that made the pair may have
/// been killed before this, and a port whose bridge is deleted stays behind.
fn ensure_port(
    socket: &Netlink,
    settings: &Settings,
    bridge: &BridgeLink,
    name: &IfName,
    port: &Link,
) -> Result<(), BridgeError> {
    let Some(vlans) = settings.gateway_port() else { return Ok(()) };
    if port.master.is_some_and(|master| master != bridge.index) {
        let (name, port) = (name.clone(), port.name.clone());
        return Err(BridgeError::GatewayElsewhere { name, port, bridge: bridge.name.clone() });
    }
    bridge::ignore_router_advertisements(&port.name.parse().map_err(BridgeError::Name)?)?;
    let change = LinkChange {
        master: port.master.is_none().then_some(Some(bridge.index)),
        up: (!port.up).then_some(true),
        ..LinkChange::default()
    };
    if change != LinkChange::default() {
        socket.change_link(port.index, &change)?;
    }
    port::set_vlans(socket, port.index, &vlans, bridge.default_vlan)
}

/// The interface of that name, which must be one that can be in a VLAN of the bridge: a veth, or an 802.1Q link that
/// the node's administrator made.
pub fn find_vlan_link(socket: &Netlink, name: &IfName) -> Result<Option<Link>, BridgeError> {
    match socket.link_by_name(name.as_str())? {
        Some(link) if !matches!(link.kind.as_deref(), Some("veth" | "vlan")) => {
            let kind = link.kind.unwrap_or_else(|| "physical device".to_owned());
            Err(BridgeError::NotAVlanLink { name: name.clone(), kind })
        }
        found => Ok(found),
    }
}

/// The name of the port of the gateway interface of this name.
pub fn port_name(name: &IfName) -> Result<IfName, BridgeError> {
    format!("veth{}", sha512_hex(&[name.as_str(), "gateway"], 8)).parse().map_err(BridgeError::Name)
}

fn create_vlan_link(
    socket: &Netlink,
    settings: &Settings,
    bridge: &BridgeLink,
    name: &IfName,
) -> Result<Link, BridgeError> {
    let here = NetNs::current()?;
    let port = port_name(name)?;
    let end = |name| Ok::<_, BridgeError>(VethEnd { name, mtu: Some(bridge.mtu), mac: Some(random_mac()?) });
    let mut spec = VethSpec::new(end(port)?, end(name.clone())?, &here);
    spec.master = Some(bridge.index);
    match socket.create_veth(&spec) {
        // Another ADD was faster; its link is as good.
        Ok(_) | Err(NetError::Exists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    find_vlan_link(socket, name)?.ok_or_else(|| BridgeError::Vanished(settings.bridge.clone()))
}

/// Gives the link the gateways' addresses and the routes to their subnets, and lets the node forward in their families.
/// Idempotent.
fn ensure_addresses(
    socket: &Netlink,
    settings: &Settings,
    link: &GatewayLink,
    gateways: &[Gateway],
) -> Result<(), BridgeError> {
    let mut present = addresses(socket, link)?;
    if make_room(socket, settings, link, gateways, &present)? {
        // Some more may have gone: the kernel deletes the first IPv4 address of a subnet with the later ones.
        present = addresses(socket, link)?;
    }
    for gateway in gateways {
        if !present.contains(&gateway.address) {
            subnet_clash::warn(socket, gateway.subnet, link.index);
            // The gateway must answer at once, not after a second of duplicate address detection.
            let options = AddressOptions { no_dad: true, no_prefix_route: gateway.needs_no_prefix_route() };
            socket.add_address(link.index, gateway.address, &options)?;
        }
        if gateway.is_outside() {
            ensure_route(socket, link, gateway.subnet)?;
        }
    }
    Ok(forwarding::ensure(socket, gateways.iter().map(|gateway| gateway.address.ip()))?)
}

/// Waits until the node receives what is sent to the gateways' IPv6 addresses.
pub fn wait_for_local_routes(socket: &Netlink, link: &GatewayLink, gateways: &[Gateway]) -> Result<(), NetError> {
    let addresses: Vec<IpNetwork> = gateways.iter().map(|gateway| gateway.address).collect();
    socket.wait_for_local_routes(link.index, &addresses)
}

/// Adds the route to the containers where the kernel doesn't, because their gateway is outside of their subnet. The kernel
/// removes it with the link. Idempotent.
fn ensure_route(socket: &Netlink, link: &GatewayLink, subnet: IpNetwork) -> Result<(), NetError> {
    match socket.add_route(&Route::new(subnet, None, link.index)) {
        Err(NetError::Exists { .. }) => Ok(()),
        other => other,
    }
}

/// Fails if ADD could not make the node the gateway of host-local's ranges on `link`, which need not exist yet; changes nothing.
/// Any range of a set may give the next address.
pub fn probe(socket: &Netlink, settings: &Settings, config: &Config, link: Option<&Link>) -> Result<(), CniError> {
    let sets: Vec<Vec<Gateway>> =
        config.ipam.range_sets().iter().map(|set| set.iter().filter_map(of_range).collect()).collect();
    let wanted: Vec<IpNetwork> = sets.iter().filter_map(|set| Some(set.first()?.address)).collect();
    if let Some(address) = wanted.iter().find(|address| address.is_ipv6()) {
        no_ipv6(link).map_or(Ok(()), |why| {
            let name = link.map_or_else(|| settings.bridge.to_string(), |link| link.name.clone());
            Err(BridgeError::Net(NetError::NoIpv6 { address: *address, name, why }))
        })?;
    }
    if let Some(link) = link {
        let present: Vec<IpNetwork> = socket.addresses(link.index)?.into_iter().map(|found| found.network).collect();
        let all: Vec<Gateway> = sets.iter().flatten().copied().collect();
        for set in &sets {
            let refused = set.iter().map(|gateway| in_the_way(settings, &link.name, &[*gateway], &all, &present));
            refused.collect::<Vec<_>>().into_iter().min_by_key(Result::is_err).transpose()?;
        }
    }
    Ok(forwarding::probe(socket, wanted.iter().map(IpNetwork::ip))?)
}

/// The gateway of host-local's range: the configured one, or the subnet's first address.
fn of_range((subnet, gateway): &(IpNetwork, Option<IpAddr>)) -> Option<Gateway> {
    Gateway::of(*subnet, gateway.unwrap_or_else(|| first_address(*subnet)))
}

/// The addresses that must go before those of `gateways` that are missing can come. None that is `wanted` has to.
fn in_the_way(
    settings: &Settings,
    link: &str,
    gateways: &[Gateway],
    wanted: &[Gateway],
    present: &[IpNetwork],
) -> Result<Vec<IpNetwork>, BridgeError> {
    let mut found = Vec::new();
    for other in present.iter().filter(|other| wanted.iter().all(|wanted| wanted.address != **other)) {
        let stands = |gateway: &&Gateway| !present.contains(&gateway.address) && conflicts(*other, gateway.address);
        let Some(gateway) = gateways.iter().find(stands) else { continue };
        if !settings.force_address {
            let (wanted, present) = (gateway.address, *other);
            return Err(BridgeError::AddressConflict { bridge: link.to_owned(), wanted, present });
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
    gateways: &[Gateway],
    present: &[IpNetwork],
) -> Result<bool, BridgeError> {
    let mut deleted = false;
    for address in in_the_way(settings, link.name.as_str(), gateways, gateways, present)? {
        deleted |= socket.delete_address(link.index, address)?;
    }
    Ok(deleted)
}
