//! The bridge, and the node as the containers' gateway.

use cni_net::{Family, Link, NetError, Netlink, Route, RouteFilter, forwarding, pair};
use cni_plugin::{CniError, Difference};
use ipnetwork::IpNetwork;

use super::{Wanted, expect, port, state};
use crate::gateway;
use crate::host;

/// Compares the bridge and returns it.
pub(super) fn bridge(
    wanted: &Wanted<'_>,
    socket: &Netlink,
    differences: &mut Vec<Difference>,
) -> Result<Option<Link>, CniError> {
    let settings = wanted.settings;
    let Some(bridge) = host::find_bridge(socket, &settings.bridge)? else {
        differences.push(Difference::missing(format!("bridge {}", settings.bridge)));
        return Ok(None);
    };
    let thing = format!("bridge {}", bridge.name);
    expect(differences, &thing, "up", state(bridge.up));
    differences.extend(pair::check_mac(&bridge, wanted.told.host_interface(&bridge.name)));
    // Others may want it promiscuous too, so only the lack of it is a difference.
    if settings.promisc && !bridge.promisc {
        differences.push(Difference::new(&thing, "promiscuous", "not promiscuous"));
    }
    if host::refuse_without_filtering(settings, &bridge).is_err() {
        differences.push(Difference::new(format!("VLAN filtering of {thing}"), "on", "off"));
    }
    Ok(Some(bridge))
}

/// Compares the gateway's link, addresses and forwarding.
pub(super) fn gateway(
    wanted: &Wanted<'_>,
    socket: &Netlink,
    bridge: Option<&Link>,
    differences: &mut Vec<Difference>,
) -> Result<(), CniError> {
    let gateways = &wanted.plan.gateways;
    let link = match bridge {
        Some(bridge) if wanted.settings.vlan_gateway.is_some() && !gateways.is_empty() => {
            vlan_gateway(wanted, socket, bridge, differences)?
        }
        _ => bridge.cloned(),
    };
    if let Some(link) = link {
        let present = socket.addresses(link.index)?;
        for gateway in gateways {
            if !present.iter().any(|found| found.network == gateway.address) {
                let of = if link.kind.as_deref() == Some("bridge") { "bridge" } else { "interface" };
                let address = gateway.address;
                differences.push(Difference::missing(format!("gateway address {address} of {of} {}", link.name)));
            }
            if gateway.is_outside() && !has_route(socket, &link, gateway.subnet)? {
                differences.push(Difference::missing(format!("route {} dev {}", gateway.subnet, link.name)));
            }
        }
    }
    for family in Family::ALL {
        if gateways.iter().any(|gateway| Family::of(gateway.address.ip()) == family) {
            differences.extend(forwarding::check(family)?);
        }
    }
    Ok(())
}

fn has_route(socket: &Netlink, link: &Link, subnet: IpNetwork) -> Result<bool, NetError> {
    let filter = RouteFilter { family: Family::of(subnet.ip()), device: Some(link.index), table: None };
    let wanted = Route::new(subnet, None, link.index);
    Ok(socket.routes(&filter)?.iter().any(|found| wanted.is_met_by(found)))
}

/// The interface in the containers' VLAN, and its other end in the bridge, if it has one.
fn vlan_gateway(
    wanted: &Wanted<'_>,
    socket: &Netlink,
    bridge: &Link,
    differences: &mut Vec<Difference>,
) -> Result<Option<Link>, CniError> {
    let settings = wanted.settings;
    let Some(name) = gateway::vlan_link_name(settings, &bridge.name.parse()?)? else { return Ok(None) };
    let thing = format!("gateway interface {name}");
    let Some(link) = gateway::find_vlan_link(socket, &name)? else {
        differences.push(Difference::missing(thing));
        return Ok(None);
    };
    expect(differences, thing, "up", state(link.up));
    differences.extend(pair::check_mac(&link, wanted.told.host_interface(name.as_str())));
    if let (Some(port), Some(vlans)) = (host::other_end(socket, &link)?, settings.gateway_port()) {
        expect(differences, format!("link {}", port.name), "up", state(port.up));
        if port::check_master(bridge, &port, differences) {
            port::check_vlans(&vlans, socket, bridge, &port, differences)?;
        }
    }
    Ok(Some(link))
}
