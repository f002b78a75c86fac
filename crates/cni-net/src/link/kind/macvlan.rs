//! Macvlan: a link with an Ethernet address of its own on another link.

use std::fmt;

use netlink_packet_core::DefaultNla;
use netlink_packet_route::link::{InfoMacVlan, LinkMessage};
use rtnetlink::LinkMacVlan;

use super::LinkKind;

pub use netlink_packet_route::link::MacVlanMode;

/// `include/uapi/linux/if_link.h`; since Linux 5.11.
const IFLA_MACVLAN_BC_QUEUE_LEN: u16 = 7;

/// A macvlan link. Its MTU is the parent's unless one is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacVlan {
    /// The index of the link below it, in the namespace of the socket that creates it.
    pub parent: u32,
    /// Which of the parent's other macvlan links it exchanges packets with, and how.
    pub mode: MacVlanMode,
    /// How many broadcast and multicast packets may wait to be copied to the parent's macvlan links. The parent has the
    /// largest of what they ask for (`update_port_bc_queue_len` in drivers/net/macvlan.c). The kernel's default (1000) if
    /// none.
    pub bc_queue_len: Option<u32>,
}

impl MacVlan {
    /// A link with the kernel's choice of everything else.
    pub fn new(parent: u32, mode: MacVlanMode) -> Self {
        Self { parent, mode, bc_queue_len: None }
    }
}

impl LinkKind for MacVlan {
    fn name(&self) -> &'static str {
        "macvlan"
    }

    fn message(&self, name: &str) -> LinkMessage {
        let builder = LinkMacVlan::new(name, self.parent, self.mode);
        match self.bc_queue_len {
            Some(length) => {
                let length = DefaultNla::new(IFLA_MACVLAN_BC_QUEUE_LEN, length.to_ne_bytes().to_vec());
                builder.append_info_data(InfoMacVlan::Other(length)).build()
            }
            None => builder.build(),
        }
    }
}

impl fmt::Display for MacVlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "macvlan mode {}", self.mode)?;
        self.bc_queue_len.map_or(Ok(()), |length| write!(f, " bcqueuelen {length}"))
    }
}
