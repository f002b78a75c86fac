//! Links: what the kernel says about one, and the verbs, a file each.

mod altname;
mod attributes;
mod change;
mod create;
mod delete;
mod fdb;
mod get;
mod port;
mod vlan;

use cni_plugin::MacAddr;
use netlink_packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoPortData, InfoVrf, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Prop,
};

pub use change::LinkChange;
pub use create::{BridgeSpec, VethEnd, VethIndexes, VethSpec};
pub use fdb::FdbEntry;
pub use netlink_packet_route::link::{BridgePortState as PortForwarding, State as OperState};
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
    pub state: PortForwarding,
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

impl Link {
    fn from_message(message: LinkMessage) -> Link {
        let flags = message.header.flags;
        let mut link = Link {
            index: message.header.index,
            name: String::new(),
            kind: None,
            mac: None,
            mtu: 0,
            up: flags.contains(LinkFlags::Up),
            loopback: flags.contains(LinkFlags::Loopback),
            promisc: flags.contains(LinkFlags::Promisc),
            all_multicast: flags.contains(LinkFlags::Allmulti),
            oper_state: OperState::Unknown,
            master: None,
            peer_index: None,
            peer_netnsid: None,
            promiscuity: 0,
            allmulti: 0,
            alias: None,
            altnames: Vec::new(),
            txqlen: 0,
            port: None,
            bridge: None,
            vrf_table: None,
        };
        for attribute in message.attributes {
            link.take(attribute);
        }
        link
    }

    fn take(&mut self, attribute: LinkAttribute) {
        match attribute {
            LinkAttribute::IfName(name) => self.name = name,
            LinkAttribute::Address(bytes) => self.mac = bytes.try_into().ok().map(MacAddr),
            LinkAttribute::Mtu(mtu) => self.mtu = mtu,
            LinkAttribute::OperState(state) => self.oper_state = state,
            LinkAttribute::Controller(index) => self.master = Some(index),
            LinkAttribute::Link(index) => self.peer_index = Some(index),
            LinkAttribute::LinkNetNsId(id) => self.peer_netnsid = Some(id),
            LinkAttribute::Promiscuity(count) => self.promiscuity = count,
            LinkAttribute::AllMulticast(count) => self.allmulti = count,
            LinkAttribute::IfAlias(alias) => self.alias = Some(alias),
            LinkAttribute::TxQueueLen(length) => self.txqlen = length,
            LinkAttribute::PropList(properties) => {
                self.altnames.extend(properties.into_iter().filter_map(|property| match property {
                    Prop::AltIfName(name) => Some(name),
                    _ => None,
                }));
            }
            LinkAttribute::LinkInfo(infos) => infos.into_iter().for_each(|info| self.take_info(info)),
            _ => {}
        }
    }

    fn take_info(&mut self, info: LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.kind = Some(kind.to_string()),
            LinkInfo::Data(InfoData::Bridge(settings)) => {
                let vlan_filtering = settings.contains(&InfoBridge::VlanFiltering(true));
                let default_vlan = settings.iter().find_map(|setting| match setting {
                    InfoBridge::VlanDefaultPvid(id) if *id != 0 => Some(*id),
                    _ => None,
                });
                self.bridge = Some(BridgeState { vlan_filtering, default_vlan });
            }
            LinkInfo::Data(InfoData::Vrf(settings)) => {
                self.vrf_table = settings.iter().find_map(|setting| match setting {
                    InfoVrf::TableId(table) => Some(*table),
                    _ => None,
                });
            }
            LinkInfo::PortData(InfoPortData::BridgePort(settings)) => {
                let state = settings.iter().find_map(|setting| match setting {
                    InfoBridgePort::State(state) => Some(*state),
                    _ => None,
                });
                self.port = Some(PortState {
                    hairpin: settings.contains(&InfoBridgePort::HairpinMode(true)),
                    isolated: settings.contains(&InfoBridgePort::Isolated(true)),
                    state: state.unwrap_or(PortForwarding::Disabled),
                });
            }
            _ => {}
        }
    }
}

/// A message about the link with this index.
fn about(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}
