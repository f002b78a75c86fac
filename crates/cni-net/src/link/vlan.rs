//! The VLANs of bridge ports (`net/bridge/br_netlink.c`, `br_afspec`).

use netlink_packet_route::link::{
    AfSpecBridge, BridgeFlag, BridgeVlanInfo, BridgeVlanInfoFlags, LinkAttribute, LinkExtentMask, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::about;
use crate::{NetError, Netlink, Operation};

/// A VLAN of a bridge port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vlan {
    /// 1 to 4094.
    pub id: u16,
    /// Packets that come in without a tag belong to it. A port has one such VLAN at most.
    pub pvid: bool,
    /// Its packets go out without a tag.
    pub untagged: bool,
}

/// Whose VLANs are meant: those of a port, or those of the bridge's own interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Port,
    BridgeItself,
}

impl Netlink {
    /// The VLANs of the bridge port (or bridge) with this index, in ascending order; empty if it has none, is no port,
    /// or does not exist.
    ///
    /// The kernel cannot filter this list by port, so it costs the more the more ports the namespace has.
    ///
    /// # Errors
    /// The kernel's.
    pub fn port_vlans(&self, index: u32) -> Result<Vec<Vlan>, NetError> {
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Bridge;
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::Brvlan]));
        let answers = self
            .dump(&RouteNetlinkMessage::GetLink(message))
            .map_err(|failure| failure.during(Operation::ListVlans { link: index }))?;
        Ok(answers.into_iter().filter_map(|answer| vlans_of(index, answer)).flatten().collect())
    }

    /// Adds the VLAN to the bridge port with this index, or changes its `pvid` and `untagged`. Idempotent.
    ///
    /// # Errors
    /// [`NetError::NoSuchLink`]; otherwise the kernel's: `EOPNOTSUPP` without VLAN filtering, or if it is no port.
    pub fn add_port_vlan(&self, index: u32, vlan: Vlan) -> Result<(), NetError> {
        self.add_vlan(index, Place::Port, vlan)
    }

    /// Adds the VLAN to the interface of the bridge with this index itself. Otherwise as [`Netlink::add_port_vlan`].
    ///
    /// # Errors
    /// As [`Netlink::add_port_vlan`].
    pub fn add_bridge_vlan(&self, index: u32, vlan: Vlan) -> Result<(), NetError> {
        self.add_vlan(index, Place::BridgeItself, vlan)
    }

    /// Removes the VLAN from the bridge port with this index. The kernel does not say whether the port had it.
    ///
    /// # Errors
    /// As [`Netlink::add_port_vlan`].
    pub fn delete_port_vlan(&self, index: u32, id: u16) -> Result<(), NetError> {
        let message = vlan_message(index, Place::Port, Vlan { id, pvid: false, untagged: false });
        match self.ask(RouteNetlinkMessage::DelLink(message), 0) {
            Ok(_) => Ok(()),
            Err(failure) => Err(failure.during(Operation::DeleteVlan { link: index, id })),
        }
    }

    fn add_vlan(&self, index: u32, place: Place, vlan: Vlan) -> Result<(), NetError> {
        match self.ask(RouteNetlinkMessage::SetLink(vlan_message(index, place, vlan)), 0) {
            Ok(_) => Ok(()),
            Err(failure) => Err(failure.during(Operation::AddVlan { link: index, id: vlan.id })),
        }
    }
}

fn vlan_message(index: u32, place: Place, vlan: Vlan) -> LinkMessage {
    let mut flags = BridgeVlanInfoFlags::empty();
    flags.set(BridgeVlanInfoFlags::Pvid, vlan.pvid);
    flags.set(BridgeVlanInfoFlags::Untagged, vlan.untagged);
    let mut specification = Vec::new();
    if place == Place::BridgeItself {
        // "self": without it rtnetlink passes the request to the bridge's own master, which it has none.
        specification.push(AfSpecBridge::Flags(BridgeFlag::LowerDev));
        flags |= BridgeVlanInfoFlags::Brentry;
    }
    specification.push(AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid: vlan.id }));
    let mut message = about(index);
    message.header.interface_family = AddressFamily::Bridge;
    message.attributes.push(LinkAttribute::AfSpecBridge(specification));
    message
}

fn vlans_of(index: u32, message: RouteNetlinkMessage) -> Option<Vec<Vlan>> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    if message.header.index != index {
        return None;
    }
    let specification = message.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::AfSpecBridge(specification) => Some(specification),
        _ => None,
    })?;
    let vlans = specification.into_iter().filter_map(|entry| match entry {
        AfSpecBridge::VlanInfo(info) => Some(Vlan {
            id: info.vid,
            pvid: info.flags.contains(BridgeVlanInfoFlags::Pvid),
            untagged: info.flags.contains(BridgeVlanInfoFlags::Untagged),
        }),
        _ => None,
    });
    Some(vlans.collect())
}
