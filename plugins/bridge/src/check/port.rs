//! The host's end of the pair, as a port of the bridge.

use cni_net::pair::PairCheck;
use cni_net::{Link, Netlink};
use cni_plugin::{CniError, Difference};

use super::{Wanted, expect, on};
use crate::vlan::{self, PortVlans};

pub(super) fn check(
    wanted: &Wanted<'_>,
    pair: &PairCheck<'_>,
    socket: &Netlink,
    bridge: Option<&Link>,
    port: Option<&Link>,
    differences: &mut Vec<Difference>,
) -> Result<(), CniError> {
    let settings = wanted.settings;
    differences.extend(pair.host(port));
    let Some(port) = port else { return Ok(()) };
    let Some(bridge) = bridge.filter(|bridge| check_master(bridge, port, differences)) else { return Ok(()) };
    let name = &port.name;
    let found = port.port.as_ref();
    let hairpin = found.is_some_and(|port| port.hairpin);
    expect(differences, format!("hairpin of {name}"), on(settings.hairpin), on(hairpin));
    let isolated = found.is_some_and(|port| port.isolated);
    expect(differences, format!("isolation of {name}"), on(settings.isolated), on(isolated));
    match &settings.vlans {
        Some(vlans) => check_vlans(vlans, socket, bridge, port, differences),
        None => Ok(()),
    }
}

/// True if the link is a port of the bridge; otherwise that is the difference, and a port's settings are none.
pub(super) fn check_master(bridge: &Link, port: &Link, differences: &mut Vec<Difference>) -> bool {
    if port.master == Some(bridge.index) {
        return true;
    }
    let found = port.master.map_or_else(|| "none".to_owned(), |index| format!("link {index}"));
    differences.push(Difference::new(format!("master of {}", port.name), &bridge.name, found));
    false
}

/// Every VLAN that the port should be in, and no other one.
pub(super) fn check_vlans(
    wanted: &PortVlans,
    socket: &Netlink,
    bridge: &Link,
    port: &Link,
    differences: &mut Vec<Difference>,
) -> Result<(), CniError> {
    if wanted.wanted.is_empty() {
        return Ok(());
    }
    let found = socket.port_vlans(port.index)?;
    let default = bridge.bridge.as_ref().and_then(|bridge| bridge.default_vlan);
    if !wanted.is_met_by(&found, default) {
        let thing = format!("VLANs of {}", port.name);
        differences.push(Difference::new(thing, vlan::shown(&wanted.wanted), vlan::shown(&found)));
    }
    Ok(())
}
