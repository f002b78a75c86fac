//! The VLANs of bridge ports (`net/bridge/br_netlink.c`, `br_afspec`).

use netlink_packet_core::{DecodeError, Parseable, parse_u16};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{
    AfSpecBridge, BridgeFlag, BridgeVlanInfo, BridgeVlanInfoFlags, LinkAttribute, LinkExtentMask, LinkHeader,
    LinkMessage,
};

use super::about;
use super::read::{HEADER, IFLA_AF_SPEC, attributes};
use crate::error::{NetError, Operation};
use crate::netlink::{Netlink, Object, rtm};

/// In `IFLA_AF_SPEC` of `AF_BRIDGE` (`include/uapi/linux/if_bridge.h`).
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;

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
    /// [`NetError`], with the kernel's error number.
    pub fn port_vlans(&self, index: u32) -> Result<Vec<Vlan>, NetError> {
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Bridge;
        // As ranges: a trunk's 4094 VLANs one by one would not fit into a message.
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::BrvlanCompressed]));
        let answers: Vec<VlansOfLink> = self
            .dump(rtm::GETLINK, &message)
            .map_err(|failure| failure.during(self, Operation::ListVlans { link: index.into() }))?;
        Ok(answers.into_iter().filter(|link| link.index == index).flat_map(|link| link.vlans).collect())
    }

    /// Adds the VLAN to the bridge port with this index, or changes its `pvid` and `untagged`. Idempotent.
    ///
    /// # Errors
    /// [`NetError::NoSuchLink`]; otherwise the kernel's: `EOPNOTSUPP` without VLAN filtering, or if it is no port.
    pub fn add_port_vlan(&self, index: u32, vlan: Vlan) -> Result<(), NetError> {
        self.add_vlans(index, Place::Port, &[vlan])
    }

    /// Adds many VLANs with one message, as [`Netlink::add_port_vlan`] does one. Not all or nothing.
    ///
    /// # Errors
    /// As [`Netlink::add_port_vlan`].
    pub fn add_port_vlans(&self, index: u32, vlans: &[Vlan]) -> Result<(), NetError> {
        self.add_vlans(index, Place::Port, vlans)
    }

    /// Adds the VLAN to the interface of the bridge with this index itself. Otherwise as [`Netlink::add_port_vlan`].
    ///
    /// # Errors
    /// As [`Netlink::add_port_vlan`].
    pub fn add_bridge_vlan(&self, index: u32, vlan: Vlan) -> Result<(), NetError> {
        self.add_vlans(index, Place::BridgeItself, &[vlan])
    }

    /// Removes the VLAN from the bridge port with this index. The kernel does not say whether the port had it.
    ///
    /// # Errors
    /// As [`Netlink::add_port_vlan`].
    pub fn delete_port_vlan(&self, index: u32, id: u16) -> Result<(), NetError> {
        let message = vlan_message(index, Place::Port, &[Vlan { id, pvid: false, untagged: false }]);
        match self.tell(rtm::DELLINK, &message, 0) {
            Ok(_) => Ok(()),
            Err(failure) => Err(failure.during(self, Operation::DeleteVlans { link: index.into(), ids: vec![id] })),
        }
    }

    fn add_vlans(&self, index: u32, place: Place, vlans: &[Vlan]) -> Result<(), NetError> {
        if vlans.is_empty() {
            return Ok(());
        }
        match self.tell(rtm::SETLINK, &vlan_message(index, place, vlans), 0) {
            Ok(_) => Ok(()),
            Err(failure) => {
                let ids = vlans.iter().map(|vlan| vlan.id).collect();
                Err(failure.during(self, Operation::AddVlans { link: index.into(), ids }))
            }
        }
    }
}

fn vlan_message(index: u32, place: Place, vlans: &[Vlan]) -> LinkMessage {
    let mut specification = Vec::new();
    if place == Place::BridgeItself {
        // "self". Without it rtnl_bridge_setlink() hands the request to the link's bridge, as a port wants it.
        specification.push(AfSpecBridge::Flags(BridgeFlag::LowerDev));
    }
    specification.extend(ranges(vlans).into_iter().map(AfSpecBridge::VlanInfo));
    let mut message = about(index);
    message.header.interface_family = AddressFamily::Bridge;
    message.attributes.push(LinkAttribute::AfSpecBridge(specification));
    message
}

/// The VLANs as the kernel wants them: neighbours that are alike become the beginning and the end of a range, which a
/// PVID must not be in (`br_vlan_valid_range`).
fn ranges(vlans: &[Vlan]) -> Vec<BridgeVlanInfo> {
    let mut sorted = vlans.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let alike =
        |a: &Vlan, b: &Vlan| !a.pvid && !b.pvid && a.untagged == b.untagged && a.id.checked_add(1) == Some(b.id);
    let mut infos = Vec::new();
    for run in sorted.chunk_by(alike) {
        match run {
            [] => {}
            [one] => infos.push(info(one, BridgeVlanInfoFlags::empty())),
            [first, .., last] => {
                infos.push(info(first, BridgeVlanInfoFlags::RangeBegin));
                infos.push(info(last, BridgeVlanInfoFlags::RangeEnd));
            }
        }
    }
    infos
}

fn info(vlan: &Vlan, range: BridgeVlanInfoFlags) -> BridgeVlanInfo {
    let mut flags = range;
    flags.set(BridgeVlanInfoFlags::Pvid, vlan.pvid);
    flags.set(BridgeVlanInfoFlags::Untagged, vlan.untagged);
    BridgeVlanInfo { flags, vid: vlan.id }
}

/// A link's VLANs, as the kernel lists them for `AF_BRIDGE`.
#[derive(Debug, PartialEq, Eq)]
struct VlansOfLink {
    index: u32,
    vlans: Vec<Vlan>,
}

impl Object for VlansOfLink {
    const DESCRIBED_BY: &'static [u16] = &[rtm::NEWLINK];
}

impl Parseable<[u8]> for VlansOfLink {
    fn parse(message: &[u8]) -> Result<Self, DecodeError> {
        let index = LinkHeader::parse(message)?.index;
        let specifications =
            attributes(message.get(HEADER..).unwrap_or_default()).filter(|(kind, _)| *kind == IFLA_AF_SPEC);
        let entries = specifications.flat_map(|(_, value)| attributes(value));
        let (mut vlans, mut begin) = (Vec::new(), None);
        for (_, entry) in entries.filter(|(kind, _)| *kind == IFLA_BRIDGE_VLAN_INFO) {
            // `struct bridge_vlan_info`: flags, ID.
            let (flags, id) = entry.split_at_checked(2).ok_or("a VLAN without its flags")?;
            let (flags, id) = (BridgeVlanInfoFlags::from_bits_retain(parse_u16(flags)?), parse_u16(id)?);
            if flags.contains(BridgeVlanInfoFlags::RangeBegin) {
                begin = Some(id);
                continue;
            }
            let first = begin.take().filter(|_| flags.contains(BridgeVlanInfoFlags::RangeEnd)).unwrap_or(id);
            vlans.extend((first..=id).map(|id| Vlan {
                id,
                pvid: flags.contains(BridgeVlanInfoFlags::Pvid),
                untagged: flags.contains(BridgeVlanInfoFlags::Untagged),
            }));
        }
        Ok(Self { index, vlans })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;

    fn bytes(message: &LinkMessage) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    /// `struct ifinfomsg` about link 7, by hand: AF_BRIDGE is 7.
    const ABOUT_7: [u8; 16] = [7, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    #[cfg(target_endian = "little")]
    fn a_ports_vlan_as_the_kernel_reads_it() {
        let message = vlan_message(7, Place::Port, &[Vlan { id: 0x123, pvid: true, untagged: true }]);
        // IFLA_AF_SPEC (26) { IFLA_BRIDGE_VLAN_INFO (2) { flags: PVID (2) | UNTAGGED (4), vid } }
        let attributes = [12, 0, 26, 0, 8, 0, 2, 0, 6, 0, 0x23, 0x01];
        assert_eq!(bytes(&message), [&ABOUT_7[..], &attributes].concat());
        let message = vlan_message(7, Place::Port, &[Vlan { id: 100, pvid: false, untagged: false }]);
        let attributes = [12, 0, 26, 0, 8, 0, 2, 0, 0, 0, 100, 0];
        assert_eq!(bytes(&message), [&ABOUT_7[..], &attributes].concat());
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_bridges_own_vlan_as_the_kernel_reads_it() {
        let message = vlan_message(7, Place::BridgeItself, &[Vlan { id: 100, pvid: false, untagged: true }]);
        // IFLA_BRIDGE_FLAGS (0) = BRIDGE_FLAGS_SELF (2), a u16 padded to four bytes, comes first.
        let attributes = [20, 0, 26, 0, 6, 0, 0, 0, 2, 0, 0, 0, 8, 0, 2, 0, 4, 0, 100, 0];
        assert_eq!(bytes(&message), [&ABOUT_7[..], &attributes].concat());
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn neighbours_are_sent_as_ranges() {
        let tagged = |id| Vlan { id, pvid: false, untagged: false };
        let native = Vlan { id: 11, pvid: true, untagged: true };
        let message =
            vlan_message(7, Place::Port, &[tagged(14), tagged(10), native, tagged(12), tagged(13), tagged(20)]);
        #[rustfmt::skip]
        let attributes = [
            44, 0, 26, 0,
            8, 0, 2, 0, 0, 0, 10, 0,
            8, 0, 2, 0, 6, 0, 11, 0,
            // BRIDGE_VLAN_INFO_RANGE_BEGIN is 8, BRIDGE_VLAN_INFO_RANGE_END 16.
            8, 0, 2, 0, 8, 0, 12, 0,
            8, 0, 2, 0, 16, 0, 14, 0,
            8, 0, 2, 0, 0, 0, 20, 0,
        ];
        assert_eq!(bytes(&message), [&ABOUT_7[..], &attributes].concat());
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernels_list_is_read() {
        #[rustfmt::skip]
        let attributes = [
            28, 0, 26, 0,
            8, 0, 2, 0, 6, 0, 1, 0,
            8, 0, 2, 0, 8, 0, 100, 0,
            8, 0, 2, 0, 16, 0, 102, 0,
        ];
        let message = [&ABOUT_7[..], &attributes].concat();
        let tagged = |id| Vlan { id, pvid: false, untagged: false };
        let vlans = vec![Vlan { id: 1, pvid: true, untagged: true }, tagged(100), tagged(101), tagged(102)];
        assert_eq!(VlansOfLink::parse(&message).unwrap(), VlansOfLink { index: 7, vlans });
        assert!(VlansOfLink::parse(&message[..7]).is_err());
    }
}
