//! The host's end of the pair, as a port of the bridge.

use std::time::{Duration, Instant};

use cni_attach::Sides;
use cni_attach::pair::{self, Pair, PairError, PairSpec};
use cni_net::{LinkChange, NetError, Netlink, OperState, PortChange, StpState};
use cni_plugin::{IfName, Owner, Undo};

use crate::bridge::{BridgeError, BridgeLink};
use crate::plan::Gateway;
use crate::settings::Settings;
use crate::vlan::PortVlans;

/// What the kernel says of a bridge without a free port number (`find_portno` in `net/bridge/br_if.c`).
const EXFULL: i32 = 54;

/// How long a new port's carrier may take to be noticed. It is noticed while the link is looked at since Linux 6.8
/// (`linkwatch_sync_dev`), and within milliseconds before.
const CARRIER_LIMIT: Duration = Duration::from_secs(1);

/// Creates the pair with its host's end a port of the bridge. Pushes its deletion to `undo`.
pub fn create(
    sides: &Sides,
    settings: &Settings,
    owner: &Owner,
    names: &[IfName],
    bridge: &BridgeLink,
    undo: &mut Undo,
) -> Result<Pair, BridgeError> {
    let spec = PairSpec { owner, names, mtu: settings.mtu, mac: settings.mac, master: Some(bridge.index) };
    let made = match (pair::create(sides, &spec, undo), &settings.host_name) {
        (Err(PairError::Net(NetError::Refused { reason, .. })), _) if reason.errno == EXFULL => {
            return Err(BridgeError::Full(settings.bridge.clone()));
        }
        (Err(taken @ PairError::NamesTaken { .. }), Some(template)) => return Err(template.taken(taken).into()),
        (other, _) => other?,
    };
    if settings.hairpin || settings.isolated {
        let change = PortChange { hairpin: Some(settings.hairpin), isolated: Some(settings.isolated) };
        sides.host.set_port(made.host_index, &change)?;
    }
    if let Some(vlans) = &settings.vlans {
        set_vlans(&sides.host, made.host_index, vlans, bridge.default_vlan)?;
    }
    Ok(made)
}

/// Puts the port into its VLANs and, unless it is to stay, takes it out of the bridge's default one: the only one that
/// a new port is in. Idempotent.
pub fn set_vlans(socket: &Netlink, port: u32, vlans: &PortVlans, default_vlan: Option<u16>) -> Result<(), BridgeError> {
    if let Some(left) = vlans.without(default_vlan) {
        socket.delete_port_vlan(port, left)?;
    }
    Ok(socket.add_port_vlans(port, &vlans.wanted)?)
}

/// Waits until the port passes packets and, if one of `gateways` is an IPv6 address, the bridge has a carrier. Before, the bridge
/// drops what the container sends, and a new bridge has no link-local address. IPv4 doesn't need it, and a bridge that never had a port may keep it
/// waiting for a second.
///
/// The kernel notices a carrier later (`net/core/link_watch.c`): first the port's (`br_port_carrier_check` in
/// `net/bridge/br_if.c`), then the bridge's. A port that spanning tree holds back is not waited for.
pub fn wait_for_carrier(socket: &Netlink, port: u32, bridge: u32, gateways: &[Gateway]) -> Result<(), NetError> {
    let ipv6 = gateways.iter().any(|gateway| gateway.address.is_ipv6());
    let begin = Instant::now();
    while begin.elapsed() < CARRIER_LIMIT {
        let state = socket.link_by_index(port)?.and_then(|link| link.port).map(|port| port.state);
        let up = !ipv6 || socket.link_by_index(bridge)?.is_none_or(|link| link.oper_state == OperState::Up);
        match state {
            Some(StpState::Disabled) => {}
            Some(StpState::Forwarding) if !up => {}
            _ => break,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Announces to the neighbours on the bridge the hardware address of the container's addresses, so that an address that was
/// another container's a moment ago works at once. Idempotent.
///
/// The kernel has sent a gratuitous ARP and an unsolicited neighbour advertisement when the link went up, which the
/// port may have dropped. It sends them again when a hardware address is set, even to the same value.
pub fn announce(inside: &Netlink, pair: &Pair) -> Result<(), NetError> {
    inside.change_link(pair.container_index, &LinkChange { mac: Some(pair.container_mac), ..LinkChange::default() })
}
