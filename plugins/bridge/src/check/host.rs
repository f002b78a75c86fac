//! The bridge, and the node as the containers' gateway.

use cni_net::{Family, Link, Netlink, forwarding, pair};
use cni_plugin::{CniError, Difference};

use super::{Wanted, expect, state};
use crate::gateway;
use crate::host;

/// Compares the bridge and returns it.
pub(super) fn bridge(
    wanted: &Wanted<'_>,
    socket: &Netlink,
    differences: &mut Vec<Difference>,
) -> Result<Option<Link>, CniError> {
    let settings = wanted.settings;
    let name = &settings.bridge;
    let Some(bridge) = host::find_bridge(socket, name)? else {
        differences.push(Difference::missing(format!("bridge {name}")));
        return Ok(None);
    };
    let thing = format!("bridge {name}");
    expect(differences, &thing, "up", state(bridge.up));
    differences.extend(pair::check_mac(&bridge, wanted.told.host_interface(name.as_str())));
    // Others may want it promiscuous too, so only the lack of it is a difference.
    if settings.promisc && bridge.promiscuity == 0 {
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
    let link = match &wanted.settings.vlan_gateway {
        Some(name) if !gateways.is_empty() => vlan_gateway(wanted, socket, name.as_str(), differences)?,
        _ => bridge.cloned(),
    };
    if let Some(link) = link {
        let present = socket.addresses(link.index)?;
        for gateway in gateways {
            if !present.iter().any(|found| found.network == *gateway) {
                let of = if link.kind.as_deref() == Some("bridge") { "bridge" } else { "interface" };
                differences.push(Difference::missing(format!("gateway address {gateway} of {of} {}", link.name)));
            }
        }
    }
    for family in Family::ALL {
        if gateways.iter().any(|gateway| Family::of(gateway.ip()) == family) {
            differences.extend(forwarding::check(family)?);
        }
    }
    Ok(())
}

fn vlan_gateway(
    wanted: &Wanted<'_>,
    socket: &Netlink,
    name: &str,
    differences: &mut Vec<Difference>,
) -> Result<Option<Link>, CniError> {
    let thing = format!("gateway interface {name}");
    let Some(ifname) = &wanted.settings.vlan_gateway else { return Ok(None) };
    let Some(link) = gateway::find_vlan_link(socket, ifname)? else {
        differences.push(Difference::missing(thing));
        return Ok(None);
    };
    expect(differences, thing, "up", state(link.up));
    differences.extend(pair::check_mac(&link, wanted.told.host_interface(name)));
    Ok(Some(link))
}
