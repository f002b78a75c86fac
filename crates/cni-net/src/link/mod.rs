//! Links: what the kernel reports about one, and the verbs, a file each.

mod altname;
mod change;
mod create;
mod delete;
mod fdb;
mod get;
pub mod kind;
mod mac;
mod port;
mod read;
mod vlan;

use cni_plugin::MacAddr;
use kind::VxLan;
use netlink_packet_route::link::{IpVlanMode, LinkMessage, MacVlanMode};

pub use change::LinkChange;
pub use create::LinkSpec;
pub use fdb::{FdbEntry, VxlanFdbEntry};
pub use mac::{mac_of, mac_of_link, mac_was_set, random_mac, unusable_mac};
pub use netlink_packet_route::link::{BridgePortState as StpState, State as OperState};
pub use port::PortChange;
pub use vlan::Vlan;

/// A link as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// Its number, unique in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is: `bridge`, `veth`, …; none for hardware and `lo`.
    pub kind: Option<String>,
    /// Its Ethernet address; none where it has another kind of address.
    pub mac: Option<MacAddr>,
    /// Largest packet in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// It is the loopback device (`IFF_LOOPBACK`).
    pub loopback: bool,
    /// Whether it can carry packets (RFC 2863). `lo` is `Unknown` when it can.
    pub oper_state: OperState,
    /// Index of the bridge (or bond, VRF) it is a port of.
    pub master: Option<u32>,
    /// `IFLA_LINK`: of a veth the peer's index, of a VLAN or macvlan the lower link's.
    pub peer_index: Option<u32>,
    /// The namespace that `peer_index` counts in, if it is another one: an id local to this namespace, not an inode.
    pub peer_netnsid: Option<i32>,
    /// An administrator wants it promiscuous (`IFF_PROMISC`): what [`LinkChange::promisc`] sets.
    pub promisc: bool,
    /// An administrator wants it to receive all multicast packets (`IFF_ALLMULTI`).
    pub all_multicast: bool,
    /// How many users want it promiscuous. Being a bridge's port is one on some bridges.
    pub promiscuity: u32,
    /// How many users want all multicast packets (since Linux 6.1, otherwise 0).
    pub allmulti: u32,
    /// Free text for people (`IFLA_IFALIAS`).
    pub alias: Option<String>,
    /// Further names it is found by (`IFLA_ALT_IFNAME`).
    pub altnames: Vec<String>,
    /// Length of its transmit queue, in packets.
    pub txqlen: u32,
    /// Its settings as a port of a bridge.
    pub port: Option<PortState>,
    /// Its settings as a bridge.
    pub bridge: Option<BridgeState>,
    /// Of a VRF: the routing table of its ports.
    pub vrf_table: Option<u32>,
    /// Of a macvlan.
    pub macvlan_mode: Option<MacVlanMode>,
    /// Of an ipvlan.
    pub ipvlan_mode: Option<IpVlanMode>,
    /// Of a VLAN: its ID.
    pub vlan_id: Option<u16>,
    /// Its settings as a tun or tap device.
    pub tun: Option<TunState>,
    /// Its settings as a VXLAN device.
    pub vxlan: Option<VxLan>,
}

/// A tun or tap device's settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TunState {
    /// The user that may open it; none for root only.
    pub owner: Option<u32>,
    /// The group that may.
    pub group: Option<u32>,
    /// It can be opened several times, for a queue each.
    pub multi_queue: bool,
}

/// A bridge port's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortState {
    /// Sends packets back out of the port that they came in by.
    pub hairpin: bool,
    /// Exchanges packets with non-isolated ports only.
    pub isolated: bool,
    /// The spanning tree's state; `Forwarding` where packets pass.
    pub state: StpState,
}

/// A bridge's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BridgeState {
    /// Its ports have VLANs.
    pub vlan_filtering: bool,
    /// The VLAN that a new port is put into, whether the bridge filters or not; none if that is switched off.
    pub default_vlan: Option<u16>,
}

/// A message about the link with this index.
fn about(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}
