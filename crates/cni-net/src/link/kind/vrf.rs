//! VRFs: a routing table of its own for the links in it.

use std::fmt;

use netlink_packet_route::link::LinkMessage;
use rtnetlink::LinkVrf;

use super::LinkKind;

/// A VRF. Links are put into it as ports are put into a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vrf {
    /// The routing table of its links; the kernel refuses 0.
    pub table: u32,
}

impl LinkKind for Vrf {
    fn name(&self) -> &'static str {
        "vrf"
    }

    fn message(&self, name: &str) -> LinkMessage {
        LinkVrf::new(name, self.table).build()
    }
}

impl fmt::Display for Vrf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vrf table {}", self.table)
    }
}
