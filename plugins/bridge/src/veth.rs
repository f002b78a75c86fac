//! The pair that joins the container to the bridge.

use std::rc::Rc;

use cni_net::{NetError, NetNs, Netlink, Pair, PairError, PairSpec, PortChange, pair};
use cni_plugin::{Owner, Undo};

use crate::host::{BridgeLink, HostError};
use crate::names::host_names;
use crate::settings::Settings;
use crate::vlan::PortVlans;

/// What the kernel says of a bridge without a free port number (`find_portno` in `net/bridge/br_if.c`).
const EXFULL: i32 = 54;

/// Creates the pair with its host's end a port of the bridge. Pushes its deletion to `undo`.
pub fn create(
    socket: &Rc<Netlink>,
    namespace: &NetNs,
    settings: &Settings,
    owner: &Owner,
    bridge: &BridgeLink,
    undo: &mut Undo,
) -> Result<Pair, HostError> {
    let names = host_names(settings.host_name.as_ref(), owner)?;
    let spec = PairSpec { owner, namespace, mtu: settings.mtu, mac: settings.mac, master: Some(bridge.index) };
    let made = match pair::create_named(socket, &spec, names, undo) {
        Err(PairError::Net(NetError::Refused { reason, .. })) if reason.errno == EXFULL => {
            return Err(HostError::Full(settings.bridge.clone()));
        }
        other => other?,
    };
    if settings.hairpin || settings.isolated {
        let change = PortChange { hairpin: Some(settings.hairpin), isolated: Some(settings.isolated) };
        socket.set_port(made.host_index, &change)?;
    }
    if let Some(vlans) = &settings.vlans {
        set_vlans(socket, made.host_index, vlans, bridge.default_vlan)?;
    }
    Ok(made)
}

/// Puts the port into its VLANs and, unless it is to stay, takes it out of the bridge's default one: the only one that
/// a new port is in. Idempotent.
pub fn set_vlans(socket: &Netlink, port: u32, vlans: &PortVlans, default_vlan: Option<u16>) -> Result<(), HostError> {
    if let Some(left) = vlans.without(default_vlan) {
        socket.delete_port_vlan(port, left)?;
    }
    Ok(socket.add_port_vlans(port, &vlans.wanted)?)
}
