//! The pair that joins the container to the bridge.

use std::rc::Rc;

use cni_net::{NetNs, Netlink, Pair, PairSpec, PortChange, pair};
use cni_plugin::{Owner, Undo};

use crate::host::{BridgeLink, HostError};
use crate::settings::Settings;

/// Creates the pair with its host's end a port of the bridge. Pushes its deletion to `undo`.
pub fn create(
    socket: &Rc<Netlink>,
    namespace: &NetNs,
    settings: &Settings,
    owner: &Owner,
    bridge: &BridgeLink,
    undo: &mut Undo,
) -> Result<Pair, HostError> {
    let spec = PairSpec { owner, namespace, mtu: settings.mtu, mac: settings.mac, master: Some(bridge.index) };
    let made = pair::create(socket, &spec, undo)?;
    if settings.hairpin || settings.isolated {
        let change = PortChange { hairpin: Some(settings.hairpin), isolated: Some(settings.isolated) };
        socket.set_port(made.host_index, &change)?;
    }
    Ok(made)
}
