//! Asking the kernel which route it takes for a given packet, policy rules included.

use std::net::IpAddr;

use cni_plugin::Family;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};

use super::RouteLookup;
use crate::error::NetError;
use crate::netlink::Netlink;

/// A packet, as far as it matters to routing: `ip route get TO from FROM iif LINK mark MARK`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteQuery {
    /// Its destination.
    pub to: IpAddr,
    /// Its source; the kernel's choice for a packet from here if none.
    pub from: Option<IpAddr>,
    /// The link that it arrived by; from here if none.
    pub arrived_by: Option<u32>,
    /// The link that it must leave by.
    pub leave_by: Option<u32>,
    /// Its packet mark; 0 is none.
    pub mark: u32,
}

impl RouteQuery {
    /// A packet from here, with the kernel's choice of everything else.
    pub fn to(to: IpAddr) -> Self {
        Self { to, from: None, arrived_by: None, leave_by: None, mark: 0 }
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let family = Family::of(self.to);
        if let Some(from) = self.from {
            message.header.source_prefix_length = family.bits();
            message.attributes.push(RouteAttribute::Source(from.into()));
        }
        message.attributes.extend(self.arrived_by.map(RouteAttribute::Iif));
        message.attributes.extend(self.leave_by.map(RouteAttribute::Oif));
        message.attributes.extend((self.mark != 0).then_some(RouteAttribute::Mark(self.mark)));
        message
    }
}

impl Netlink {
    /// The route that the kernel takes for this packet. `None` if there is none, or if the packet arrived and forwarding is off.
    /// Constant time.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` or `EXDEV` if it takes the source for forged (`fib_validate_source`), and for a `blackhole` route;
    /// `EACCES` for a `prohibit` route.
    pub fn route_for(&self, query: &RouteQuery) -> Result<Option<RouteLookup>, NetError> {
        self.ask_route(query.to, query.message())
    }
}
