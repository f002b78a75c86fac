//! Ipvlan: a link with IP addresses of its own, and the Ethernet address of the link below it.

use std::fmt;

use netlink_packet_route::link::LinkMessage;
use rtnetlink::LinkIpVlan;

use super::LinkKind;

pub use netlink_packet_route::link::IpVlanMode;

/// An ipvlan link. All that are on one parent have the same mode: the kernel changes the others' to the latest one's
/// (`ipvlan_set_port_mode` in drivers/net/ipvlan/ipvlan_main.c). Its MTU is the parent's unless one is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpVlan {
    /// The index of the link below it, in the namespace of the socket that creates it.
    pub parent: u32,
    /// On which layer the parent and its ipvlan links exchange packets.
    pub mode: IpVlanMode,
}

impl LinkKind for IpVlan {
    fn name(&self) -> &'static str {
        "ipvlan"
    }

    fn feature(&self) -> Option<&'static str> {
        (self.mode == IpVlanMode::L3S).then_some("the mode l3s of ipvlan (CONFIG_IPVLAN_L3S)")
    }

    fn message(&self, name: &str) -> LinkMessage {
        LinkIpVlan::new(name, self.parent, self.mode).build()
    }
}

impl fmt::Display for IpVlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ipvlan mode {}", self.mode)
    }
}
