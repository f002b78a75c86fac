//! Creating bridges and veth pairs, each with one message.

use cni_plugin::{IfName, MacAddr};
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use super::get::described;
use super::{Link, about};
use crate::error::{Errno, Failure};
use crate::{KernelError, NetError, NetNs, Netlink, Operation};

/// `include/uapi/linux/if_link.h`.
const IFLA_BR_VLAN_PROTOCOL: u16 = 8;

/// The bridge that should exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSpec {
    /// Its name.
    pub name: IfName,
    /// Its MTU; the kernel's choice (1500, then the smallest of its ports') if none.
    pub mtu: Option<u32>,
    /// Its Ethernet address. One that is given stays; one that the kernel chooses follows the lowest address of the
    /// ports (`br_stp_recalculate_bridge_id` in `net/bridge/br_stp_if.c`).
    pub mac: Option<MacAddr>,
    /// Give its ports VLANs.
    pub vlan_filtering: bool,
}

/// The veth pair that should exist: `host` in the socket's namespace, `peer` in another one.
#[derive(Debug, Clone)]
pub struct VethSpec<'a> {
    /// The end in the socket's namespace.
    pub host: VethEnd,
    /// It is up from birth.
    pub host_up: bool,
    /// The bridge that the host's end becomes a port of.
    pub master: Option<u32>,
    /// The other end. It is down: the kernel refuses to raise it with the same message.
    pub peer: VethEnd,
    /// The peer's namespace; it is born there, nobody ever sees it elsewhere.
    pub peer_namespace: &'a NetNs,
}

/// One end of a veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethEnd {
    /// Its name.
    pub name: IfName,
    /// Its MTU; 1500 if none.
    pub mtu: Option<u32>,
    /// Its Ethernet address; random if none.
    pub mac: Option<MacAddr>,
}

/// What was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct VethIndexes {
    /// The host end's index.
    pub host: u32,
    /// The host end's Ethernet address.
    pub host_mac: MacAddr,
    /// The peer's index, in its own namespace.
    pub peer: u32,
    /// The host end's MTU in bytes; the peer's too where both are given the same or none.
    pub mtu: u32,
}

impl VethEnd {
    /// An end with a name and the kernel's choice of everything else.
    pub fn named(name: IfName) -> VethEnd {
        VethEnd { name, mtu: None, mac: None }
    }

    fn attributes(&self) -> Vec<LinkAttribute> {
        let mut attributes = vec![LinkAttribute::IfName(self.name.to_string())];
        attributes.extend(self.mtu.map(LinkAttribute::Mtu));
        attributes.extend(self.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        attributes
    }
}

impl<'a> VethSpec<'a> {
    /// A pair that is no bridge's port, the host's end up.
    pub fn new(host: VethEnd, peer: VethEnd, peer_namespace: &'a NetNs) -> VethSpec<'a> {
        VethSpec { host, host_up: true, master: None, peer, peer_namespace }
    }
}

impl Netlink {
    /// Creates the bridge, down. Idempotent: false, and nothing changed, if a link of this name exists, whatever it
    /// is; so the caller looks at it next.
    ///
    /// # Errors
    /// [`NetError::Unsupported`] if VLAN filtering is wanted from a kernel that has none. Otherwise the kernel's.
    pub fn create_bridge(&self, spec: &BridgeSpec) -> Result<bool, NetError> {
        let operation = Operation::CreateBridge { name: spec.name.clone() };
        match self.ask(RouteNetlinkMessage::NewLink(bridge_message(spec)), NLM_F_CREATE | NLM_F_EXCL) {
            Ok(_) => Ok(true),
            Err(failure) if failure.is(Errno::EXIST) => Ok(false),
            // With a sentence it is "Unknown device type": no bridges at all.
            Err(Failure::Kernel(KernelError { errno: Errno::OPNOTSUPP, text: None })) if spec.vlan_filtering => {
                let feature = "VLAN filtering on bridges (CONFIG_BRIDGE_VLAN_FILTERING)";
                Err(NetError::Unsupported { operation, feature })
            }
            Err(failure) => Err(failure.during(self, operation)),
        }
    }

    /// Says whether [`Netlink::create_bridge`] could make such a bridge; makes none. Constant time.
    ///
    /// The kernel gets a bridge to make whose MTU is too small (`rtnl_create_link` in net/core/rtnetlink.c). One with VLAN
    /// filtering notices before that the VLAN protocol is none (`br_validate` in net/bridge/br_netlink.c).
    ///
    /// # Errors
    /// As [`Netlink::create_bridge`].
    pub fn probe_bridge(&self, spec: &BridgeSpec) -> Result<(), NetError> {
        let operation = Operation::CreateBridge { name: spec.name.clone() };
        let feature = "VLAN filtering on bridges (CONFIG_BRIDGE_VLAN_FILTERING)";
        let unfiltered = |operation| match spec.vlan_filtering {
            true => Err(NetError::Unsupported { operation, feature }),
            false => Ok(()),
        };
        let mut message = about(0);
        message.attributes.extend([LinkAttribute::IfName(spec.name.to_string()), LinkAttribute::Mtu(1)]);
        let no_protocol = InfoBridge::Other(DefaultNla::new(IFLA_BR_VLAN_PROTOCOL, vec![0, 0]));
        let info = vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(InfoData::Bridge(vec![no_protocol]))];
        message.attributes.push(LinkAttribute::LinkInfo(info));
        match self.ask(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL) {
            // Or somebody has made it meanwhile.
            Err(failure) if failure.is(Errno::PROTONOSUPPORT) || failure.is(Errno::EXIST) => Ok(()),
            Err(failure) if failure.is(Errno::INVAL) => unfiltered(operation),
            Err(failure) => Err(failure.during(self, operation)),
            // A kernel that takes any MTU, and knows no VLANs.
            Ok(_) => {
                let _ = self.delete_named(&spec.name);
                unfiltered(operation)
            }
        }
    }

    /// Creates the pair with one message: named, with MTUs and addresses, the host's end in its bridge, the
    /// peer in its namespace. Not idempotent. All or nothing, as the kernel does it.
    ///
    /// # Errors
    /// [`NetError::Exists`] with the name that is taken, on either side. Otherwise the kernel's.
    pub fn create_veth(&self, spec: &VethSpec<'_>) -> Result<VethIndexes, NetError> {
        let operation = Operation::CreateVeth { host: spec.host.name.clone(), peer: spec.peer.name.clone() };
        match self.ask(RouteNetlinkMessage::NewLink(veth_message(spec)), NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO) {
            Ok(answers) => {
                let made = answers.into_iter().filter_map(described).find(|link| link.name == spec.host.name.as_str());
                // Before Linux 6.2 there is no echo.
                let made = made.map_or_else(|| self.link_by_name(spec.host.name.as_str()), |link| Ok(Some(link)));
                let found = made.and_then(|made| {
                    made.as_ref().and_then(Link::as_veth).ok_or(NetError::NoAnswer { operation: operation.clone() })
                });
                if found.is_err() {
                    // All or nothing, and the first failure is the one to tell.
                    let _ = self.delete_named(&spec.host.name);
                }
                found
            }
            Err(failure) if failure.is(Errno::EXIST) => {
                // The number is the same for both names, and so is the lack of a sentence.
                let host_is_taken = self.link_by_name(spec.host.name.as_str())?.is_some();
                let taken = if host_is_taken { &spec.host.name } else { &spec.peer.name };
                Err(NetError::Exists { operation, name: taken.to_string() })
            }
            Err(failure) => Err(failure.during(self, operation)),
        }
    }
}

impl Link {
    fn as_veth(&self) -> Option<VethIndexes> {
        Some(VethIndexes { host: self.index, host_mac: self.mac?, peer: self.peer_index?, mtu: self.mtu })
    }
}

fn bridge_message(spec: &BridgeSpec) -> LinkMessage {
    let mut message = about(0);
    message.attributes.push(LinkAttribute::IfName(spec.name.to_string()));
    message.attributes.extend(spec.mtu.map(LinkAttribute::Mtu));
    message.attributes.extend(spec.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    let mut info = vec![LinkInfo::Kind(InfoKind::Bridge)];
    if spec.vlan_filtering {
        info.push(LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::VlanFiltering(true)])));
    }
    message.attributes.push(LinkAttribute::LinkInfo(info));
    message
}

fn veth_message(spec: &VethSpec<'_>) -> LinkMessage {
    let mut peer = LinkMessage::default();
    peer.attributes = spec.peer.attributes();
    peer.attributes.push(LinkAttribute::NetNsFd(spec.peer_namespace.raw_fd()));

    let mut message = about(0);
    message.header.flags.set(LinkFlags::Up, spec.host_up);
    message.header.change_mask = LinkFlags::Up;
    message.attributes = spec.host.attributes();
    message.attributes.extend(spec.master.map(LinkAttribute::Controller));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    message
}
