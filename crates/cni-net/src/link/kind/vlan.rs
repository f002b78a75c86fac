//! VLANs: a link that has the packets of another one with one VLAN ID (IEEE 802.1Q).

use std::fmt;

use netlink_packet_route::link::LinkMessage;
use rtnetlink::LinkVlan;

use super::LinkKind;

/// A VLAN link. Its MTU and Ethernet address are the parent's unless they are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VlanLink {
    /// The index of the link below it, in the namespace of the socket that creates it.
    pub parent: u32,
    /// The VLAN ID, 0 to 4094; 0 means packets that have a priority only.
    pub id: u16,
}

impl LinkKind for VlanLink {
    fn name(&self) -> &'static str {
        "vlan"
    }

    fn message(&self, name: &str) -> LinkMessage {
        LinkVlan::new(name, self.parent, self.id).build()
    }
}

impl fmt::Display for VlanLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vlan id {}", self.id)
    }
}
