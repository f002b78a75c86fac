//! The pair that joins the container to the bridge.

use std::rc::Rc;

use cni_net::sysctl;
use cni_net::{LinkChange, NetError, NetNs, Netlink, PortChange, VethEnd, VethIndexes, VethSpec, random_mac};
use cni_plugin::{IfName, MacAddr, Owner, Undo};

use crate::host::{BridgeLink, HostError};
use crate::plan;
use crate::settings::Settings;
use crate::vlan::PortVlans;

/// What the kernel says of a bridge without a free port number (`find_portno` in `net/bridge/br_if.c`).
const EXFULL: i32 = 54;

/// The pair as it was made.
#[derive(Debug)]
pub struct Pair {
    /// The host's end.
    pub host_name: IfName,
    /// Its hardware address.
    pub host_mac: MacAddr,
    /// The container's end, in its namespace.
    pub container_index: u32,
    /// Its hardware address.
    pub container_mac: MacAddr,
}

/// Creates the pair, with its host's end a port of the bridge, and writes the owner on it. Pushes its deletion to `undo`.
///
/// Both addresses are given: udev would replace those that the kernel chose.
pub fn create(
    socket: &Rc<Netlink>,
    namespace: &NetNs,
    settings: &Settings,
    owner: &Owner,
    bridge: &BridgeLink,
    undo: &mut Undo,
) -> Result<Pair, HostError> {
    let container =
        VethEnd { name: owner.ifname.clone(), mtu: settings.mtu, mac: Some(settings.mac.map_or_else(random_mac, Ok)?) };
    let mut spec = VethSpec::new(
        VethEnd { name: owner.ifname.clone(), mtu: settings.mtu, mac: Some(random_mac()?) },
        container,
        namespace,
    );
    spec.master = Some(bridge.index);
    let indexes = create_with_free_name(socket, &mut spec, owner, &settings.bridge)?;
    let (taken_back, index) = (Rc::clone(socket), indexes.host);
    undo.push(format!("link {}", spec.host.name), move || taken_back.delete_link(index).map(drop));

    socket.add_altname(indexes.host, &plan::host_altname(owner))?;
    let alias = format!("cni {} {} {}", owner.network, owner.container_id, owner.ifname);
    let alias = alias.get(..alias.len().min(255)).map(str::to_owned);
    socket.change_link(indexes.host, &LinkChange { alias, ..LinkChange::default() })?;
    if settings.hairpin || settings.isolated {
        let change =
            PortChange { hairpin: Some(settings.hairpin), isolated: Some(settings.isolated), ..PortChange::default() };
        socket.set_port(indexes.host, &change)?;
    }
    if let Some(vlans) = &settings.vlans {
        set_vlans(socket, indexes.host, vlans, bridge.default_vlan)?;
    }
    // As a port it hands everything to the bridge; should it ever leave it, it must still not listen. The peer is down
    // until later, so nothing has arrived yet.
    let _ = sysctl::write(&format!("net/ipv6/conf/{}/accept_ra", spec.host.name), "0");
    Ok(Pair {
        host_name: spec.host.name.clone(),
        host_mac: indexes.host_mac,
        container_index: indexes.peer,
        container_mac: spec.peer.mac.unwrap_or(MacAddr([0; 6])),
    })
}

/// Puts the port into its VLANs and, unless it is to stay, takes it out of the bridge's default one: the only one that
/// a new port is in. Idempotent.
pub fn set_vlans(socket: &Netlink, port: u32, vlans: &PortVlans, default_vlan: Option<u16>) -> Result<(), HostError> {
    if let Some(left) = vlans.without(default_vlan) {
        socket.delete_port_vlan(port, left)?;
    }
    Ok(socket.add_port_vlans(port, &vlans.wanted)?)
}

fn create_with_free_name(
    socket: &Netlink,
    spec: &mut VethSpec<'_>,
    owner: &Owner,
    bridge: &IfName,
) -> Result<VethIndexes, HostError> {
    let mut taken = None;
    for name in plan::host_names(owner) {
        spec.host.name = name;
        match socket.create_veth(spec) {
            Err(NetError::Exists { operation, name }) if name == spec.host.name.as_str() => {
                taken = Some(NetError::Exists { operation, name });
            }
            Err(NetError::Refused { reason, .. }) if reason.errno == EXFULL => {
                return Err(HostError::Full(bridge.clone()));
            }
            other => return Ok(other?),
        }
    }
    Err(taken.map_or_else(|| HostError::Vanished(spec.host.name.clone()), HostError::Net))
}
