//! Reading a link from the kernel's message (`rtnl_fill_ifinfo` in net/core/rtnetlink.c).
//!
//! Attribute by attribute, and only those that a [`Link`] has: the decoder of netlink-packet-route knows all of every kind of link,
//! which were 0.2 MiB in each executable.

use cni_plugin::MacAddr;
use netlink_packet_core::{
    DecodeError, NLA_HEADER_SIZE, NlasIterator, Parseable, parse_i32, parse_ip, parse_string, parse_u8, parse_u16,
    parse_u16_be, parse_u32,
};
use netlink_packet_route::link::{LinkFlags, LinkHeader};

use super::kind::VxLan;
use super::{BridgeState, Link, OperState, PortState, StpState, TunState};
use crate::netlink::{Object, rtm};

/// `struct ifinfomsg`, before the attributes.
pub(super) const HEADER: usize = 16;

// include/uapi/linux/if_link.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
pub(super) const IFLA_AF_SPEC: u16 = 26;
const IFLA_PROMISCUITY: u16 = 30;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_ALLMULTI: u16 = 61;

const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;

const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;
const IFLA_BRPORT_STATE: u16 = 1;
/// Hairpin mode.
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_VRF_TABLE: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;
const IFLA_TUN_OWNER: u16 = 1;
const IFLA_TUN_GROUP: u16 = 2;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;

/// The attributes of a message, or in an attribute, with their types. What is cut off is left out.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).filter_map(|attribute| {
        let (kind, end) = (attribute.kind(), usize::from(attribute.length()));
        Some((kind, attribute.into_inner().get(NLA_HEADER_SIZE..end)?))
    })
}

/// The value of the first attribute of this type.
fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

impl Parseable<[u8]> for Link {
    /// `Err` for what is no link, or one whose name isn't UTF-8.
    fn parse(message: &[u8]) -> Result<Self, DecodeError> {
        let header = LinkHeader::parse(message)?;
        let mut link = Link {
            index: header.index,
            name: String::new(),
            kind: None,
            mac: None,
            mtu: 0,
            up: header.flags.contains(LinkFlags::Up),
            loopback: header.flags.contains(LinkFlags::Loopback),
            promisc: header.flags.contains(LinkFlags::Promisc),
            all_multicast: header.flags.contains(LinkFlags::Allmulti),
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
            macvlan_mode: None,
            ipvlan_mode: None,
            vlan_id: None,
            tun: None,
            vxlan: None,
        };
        for (kind, value) in attributes(message.get(HEADER..).unwrap_or_default()) {
            link.take(kind, value)?;
        }
        Ok(link)
    }
}

impl Object for Link {
    const DESCRIBED_BY: &'static [u16] = &[rtm::NEWLINK];
}

impl Link {
    fn take(&mut self, kind: u16, value: &[u8]) -> Result<(), DecodeError> {
        match kind {
            IFLA_IFNAME => self.name = parse_string(value)?,
            IFLA_ADDRESS => self.mac = value.try_into().ok().map(MacAddr),
            IFLA_MTU => self.mtu = parse_u32(value)?,
            IFLA_OPERSTATE => self.oper_state = parse_u8(value)?.into(),
            IFLA_MASTER => self.master = Some(parse_u32(value)?),
            IFLA_LINK => self.peer_index = Some(parse_u32(value)?),
            IFLA_LINK_NETNSID => self.peer_netnsid = Some(parse_i32(value)?),
            IFLA_PROMISCUITY => self.promiscuity = parse_u32(value)?,
            IFLA_ALLMULTI => self.allmulti = parse_u32(value)?,
            IFLA_IFALIAS => self.alias = parse_string(value).ok(),
            IFLA_TXQLEN => self.txqlen = parse_u32(value)?,
            IFLA_PROP_LIST => {
                let names = attributes(value).filter(|(kind, _)| *kind == IFLA_ALT_IFNAME);
                self.altnames.extend(names.filter_map(|(_, name)| parse_string(name).ok()));
            }
            IFLA_LINKINFO => self.take_info(value)?,
            _ => {}
        }
        Ok(())
    }

    fn take_info(&mut self, info: &[u8]) -> Result<(), DecodeError> {
        self.kind = find(info, IFLA_INFO_KIND).map(parse_string).transpose()?;
        if let Some(data) = find(info, IFLA_INFO_DATA) {
            self.take_data(data)?;
        }
        let master = find(info, IFLA_INFO_SLAVE_KIND).map(parse_string).transpose()?;
        if let (Some("bridge"), Some(data)) = (master.as_deref(), find(info, IFLA_INFO_SLAVE_DATA)) {
            let state = find(data, IFLA_BRPORT_STATE).map(parse_u8).transpose()?;
            self.port = Some(PortState {
                hairpin: is_one(data, IFLA_BRPORT_MODE),
                isolated: is_one(data, IFLA_BRPORT_ISOLATED),
                state: state.map_or(StpState::Disabled, Into::into),
            });
        }
        Ok(())
    }

    /// What only links of one kind have.
    fn take_data(&mut self, data: &[u8]) -> Result<(), DecodeError> {
        let u16_of = |kind| find(data, kind).map(parse_u16).transpose();
        let u32_of = |kind| find(data, kind).map(parse_u32).transpose();
        match self.kind.as_deref() {
            Some("bridge") => {
                let default_vlan = u16_of(IFLA_BR_VLAN_DEFAULT_PVID)?.filter(|id| *id != 0);
                self.bridge = Some(BridgeState { vlan_filtering: is_one(data, IFLA_BR_VLAN_FILTERING), default_vlan });
            }
            Some("vrf") => self.vrf_table = u32_of(IFLA_VRF_TABLE)?,
            Some("macvlan") => self.macvlan_mode = u32_of(IFLA_MACVLAN_MODE)?.map(Into::into),
            Some("ipvlan") => self.ipvlan_mode = u16_of(IFLA_IPVLAN_MODE)?.map(Into::into),
            Some("vlan") => self.vlan_id = u16_of(IFLA_VLAN_ID)?,
            Some("vxlan") => {
                let local = [IFLA_VXLAN_LOCAL, IFLA_VXLAN_LOCAL6].into_iter().find_map(|kind| find(data, kind));
                self.vxlan = Some(VxLan {
                    vni: u32_of(IFLA_VXLAN_ID)?.unwrap_or_default(),
                    port: find(data, IFLA_VXLAN_PORT).map(parse_u16_be).transpose()?.unwrap_or_default(),
                    link: u32_of(IFLA_VXLAN_LINK)?.filter(|index| *index > 0),
                    local: local.map(parse_ip).transpose()?,
                    learning: is_one(data, IFLA_VXLAN_LEARNING),
                });
            }
            Some("tun") => {
                self.tun = Some(TunState {
                    owner: u32_of(IFLA_TUN_OWNER)?,
                    group: u32_of(IFLA_TUN_GROUP)?,
                    multi_queue: is_one(data, IFLA_TUN_MULTI_QUEUE),
                });
            }
            _ => {}
        }
        Ok(())
    }
}

/// True if there is an attribute of this type whose one byte is 1.
fn is_one(bytes: &[u8], kind: u16) -> bool {
    find(bytes, kind) == Some(&[1])
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{DefaultNla, Emitable};
    use netlink_packet_route::link::{
        InfoBridge, InfoBridgePort, InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoPortData, InfoPortKind, InfoTun,
        InfoVlan, InfoVrf, InfoVxlan, IpVlanMode, LinkAttribute, LinkInfo, LinkMessage, MacVlanMode, Prop,
    };

    use super::*;

    /// A link of these attributes, which netlink-packet-route encodes.
    fn link(attributes: impl IntoIterator<Item = LinkAttribute>) -> Link {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.flags = LinkFlags::Up | LinkFlags::Allmulti;
        message.attributes.extend(attributes);
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        Link::parse(&bytes).unwrap()
    }

    fn of_kind(kind: InfoKind, data: InfoData) -> Link {
        link([LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)])])
    }

    #[test]
    fn what_every_link_has() {
        let found = link([
            LinkAttribute::IfName("eth0".to_owned()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
            LinkAttribute::Mtu(1400),
            LinkAttribute::OperState(OperState::LowerLayerDown),
            LinkAttribute::Controller(3),
            LinkAttribute::Link(4),
            LinkAttribute::LinkNetNsId(-1),
            LinkAttribute::Promiscuity(5),
            LinkAttribute::AllMulticast(6),
            LinkAttribute::IfAlias("text".to_owned()),
            LinkAttribute::TxQueueLen(1000),
            LinkAttribute::PropList(vec![Prop::AltIfName("one".to_owned()), Prop::AltIfName("two".to_owned())]),
        ]);
        assert_eq!((found.index, found.name.as_str(), found.mtu, found.txqlen), (7, "eth0", 1400, 1000));
        assert_eq!((found.up, found.loopback, found.promisc, found.all_multicast), (true, false, false, true));
        assert_eq!(found.mac, "02:00:00:00:00:01".parse().ok());
        assert_eq!((found.master, found.peer_index, found.peer_netnsid), (Some(3), Some(4), Some(-1)));
        assert_eq!((found.promiscuity, found.allmulti, found.oper_state), (5, 6, OperState::LowerLayerDown));
        assert_eq!(found.alias.as_deref(), Some("text"));
        assert_eq!(found.altnames, ["one", "two"]);
        assert_eq!((found.kind, found.port, found.bridge, found.tun), (None, None, None, None));
    }

    #[test]
    fn what_links_of_a_kind_have() {
        let settings = vec![InfoBridge::VlanFiltering(true), InfoBridge::VlanDefaultPvid(7)];
        let bridge = of_kind(InfoKind::Bridge, InfoData::Bridge(settings));
        assert_eq!(bridge.bridge, Some(BridgeState { vlan_filtering: true, default_vlan: Some(7) }));
        assert_eq!(bridge.kind.as_deref(), Some("bridge"));
        let settings = vec![InfoBridge::VlanFiltering(false), InfoBridge::VlanDefaultPvid(0)];
        let bridge = of_kind(InfoKind::Bridge, InfoData::Bridge(settings));
        assert_eq!(bridge.bridge, Some(BridgeState { vlan_filtering: false, default_vlan: None }));

        assert_eq!(of_kind(InfoKind::Vrf, InfoData::Vrf(vec![InfoVrf::TableId(300)])).vrf_table, Some(300));
        assert_eq!(of_kind(InfoKind::Vlan, InfoData::Vlan(vec![InfoVlan::Id(100)])).vlan_id, Some(100));
        let macvlan = of_kind(InfoKind::MacVlan, InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)]));
        assert_eq!((macvlan.macvlan_mode, macvlan.ipvlan_mode), (Some(MacVlanMode::Bridge), None));
        let ipvlan = of_kind(InfoKind::IpVlan, InfoData::IpVlan(vec![InfoIpVlan::Mode(IpVlanMode::L3S)]));
        assert_eq!((ipvlan.ipvlan_mode, ipvlan.macvlan_mode), (Some(IpVlanMode::L3S), None));

        let settings = vec![
            InfoVxlan::Id(42),
            InfoVxlan::Link(3),
            InfoVxlan::Local6("fd00::1".parse().unwrap()),
            InfoVxlan::Port(4789),
            InfoVxlan::Learning(true),
        ];
        let vxlan = of_kind(InfoKind::Vxlan, InfoData::Vxlan(settings)).vxlan;
        let expected = VxLan { vni: 42, port: 4789, link: Some(3), local: "fd00::1".parse().ok(), learning: true };
        assert_eq!(vxlan, Some(expected));

        let number = |kind, value: u32| InfoTun::Other(DefaultNla::new(kind, value.to_ne_bytes().to_vec()));
        let settings = vec![number(1, 1000), number(2, 2000), InfoTun::Other(DefaultNla::new(7, vec![1]))];
        let tun = of_kind(InfoKind::Tun, InfoData::Tun(settings)).tun;
        assert_eq!(tun, Some(TunState { owner: Some(1000), group: Some(2000), multi_queue: true }));
    }

    #[test]
    fn what_ports_of_a_bridge_have() {
        let port = |kind| {
            let settings = vec![
                InfoBridgePort::State(StpState::Forwarding),
                InfoBridgePort::HairpinMode(true),
                InfoBridgePort::Isolated(false),
            ];
            let data = LinkInfo::PortData(InfoPortData::BridgePort(settings));
            link([LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(kind), data])]).port
        };
        let expected = PortState { hairpin: true, isolated: false, state: StpState::Forwarding };
        assert_eq!(port(InfoPortKind::Bridge), Some(expected));
        assert_eq!(port(InfoPortKind::Bond), None);
    }

    #[test]
    fn what_is_cut_off_is_no_link_or_lacks_attributes() {
        assert!(Link::parse(&[0; 15]).is_err());
        let message = [&[0; 16][..], &[8, 0, 4, 0, 1]].concat();
        assert_eq!(Link::parse(&message).unwrap().mtu, 0);
        // An MTU of two bytes.
        assert!(Link::parse(&[&[0; 16][..], &[6, 0, 4, 0, 1, 1, 0, 0]].concat()).is_err());
    }
}
