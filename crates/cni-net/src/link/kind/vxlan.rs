//! VXLANs (RFC 7348): Ethernet frames in UDP, between hosts that reach each other over IP.

use std::fmt;
use std::net::IpAddr;

use netlink_packet_route::link::LinkMessage;
use rtnetlink::LinkVxlan;

use super::LinkKind;

/// A VXLAN device. Where frames to unknown
/// addresses and broadcasts go is in its forwarding database ([`FdbEntry`](crate::VxlanFdbEntry)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxLan {
    /// The network's number, 24 bits.
    pub vni: u32,
    /// The UDP port that it receives on and sends to. Without one the kernel takes 8472, which is not the registered one.
    pub port: u16,
    /// The index of the link that packets leave by; routing decides if none.
    pub link: Option<u32>,
    /// The address that packets have as their source; the kernel's choice if none. With an IPv6 address the device speaks
    /// IPv6 and nothing else; otherwise IPv4 and nothing else (`vxlan_config_validate` in drivers/net/vxlan/vxlan_core.c).
    pub local: Option<IpAddr>,
    /// It learns behind which host a hardware address is from the frames that it receives.
    pub learning: bool,
}

impl VxLan {
    /// The largest network number.
    pub const VNI_MAX: u32 = (1 << 24) - 1;
    /// The registered port (RFC 7348, section 9).
    pub const PORT: u16 = 4789;

    /// Bytes of a packet that the frame's own payload has no room in, over IPv4 or IPv6: the IP header, UDP (8), VXLAN (8)
    /// and the inner Ethernet header (14); `VXLAN_HEADROOM` and `VXLAN6_HEADROOM` in include/net/vxlan.h.
    pub fn overhead(is_ipv6: bool) -> u32 {
        if is_ipv6 { 70 } else { 50 }
    }
}

impl LinkKind for VxLan {
    fn name(&self) -> &'static str {
        "vxlan"
    }

    fn message(&self, name: &str) -> LinkMessage {
        let mut builder = LinkVxlan::new(name, self.vni).port(self.port).learning(self.learning);
        if let Some(link) = self.link {
            builder = builder.dev(link);
        }
        match self.local {
            Some(IpAddr::V4(local)) => builder.local(local),
            Some(IpAddr::V6(local)) => builder.local6(local),
            None => builder,
        }
        .build()
    }
}

impl fmt::Display for VxLan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vxlan id {} dstport {}", self.vni, self.port)?;
        if let Some(local) = self.local {
            write!(f, " local {local}")?;
        }
        if self.learning { Ok(()) } else { f.write_str(" nolearning") }
    }
}
