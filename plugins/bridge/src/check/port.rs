//! The host's end of the pair, as a port of the bridge.

use cni_net::pair::PairCheck;
use cni_net::{Link, Netlink, Vlan};
use cni_plugin::{CniError, Difference};

use super::{Wanted, expect, on};
use crate::vlan;

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
    let name = &port.name;
    if port.master.is_none() || port.master != bridge.map(|bridge| bridge.index) {
        let found = port.master.map_or_else(|| "none".to_owned(), |index| format!("link {index}"));
        differences.push(Difference::new(format!("master of {name}"), &settings.bridge, found));
        return Ok(());
    }
    let found = port.port.as_ref();
    let hairpin = found.is_some_and(|port| port.hairpin);
    expect(differences, format!("hairpin of {name}"), on(settings.hairpin), on(hairpin));
    let isolated = found.is_some_and(|port| port.isolated);
    expect(differences, format!("isolation of {name}"), on(settings.isolated), on(isolated));
    vlans(wanted, socket, bridge, port, differences)
}

/// Every VLAN that the port should be in, and the default one if it should have left it. Others may have been added.
fn vlans(
    wanted: &Wanted<'_>,
    socket: &Netlink,
    bridge: Option<&Link>,
    port: &Link,
    differences: &mut Vec<Difference>,
) -> Result<(), CniError> {
    let Some(plan) = wanted.settings.vlans.as_ref().filter(|plan| !plan.wanted.is_empty()) else { return Ok(()) };
    let found = socket.port_vlans(port.index)?;
    let default = bridge.and_then(|bridge| bridge.bridge.as_ref()).and_then(|bridge| bridge.default_vlan);
    let stayed = |id: u16| found.iter().any(|vlan| vlan.id == id);
    let all_there = plan.wanted.iter().all(|vlan| found.contains(vlan));
    if !all_there || plan.without(default).is_some_and(stayed) {
        let thing = format!("VLANs of {}", port.name);
        let said = |vlans: &[Vlan]| vlan::shown(vlans);
        differences.push(Difference::new(thing, said(&plan.wanted), said(&found)));
    }
    Ok(())
}
