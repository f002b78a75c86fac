//! Routes: what one is, and the verbs.

mod change;
mod get;
mod next_hop;
mod query;

use std::fmt;
use std::net::IpAddr;

use cni_plugin::Family;
use ipnetwork::IpNetwork;
use netlink_packet_route::route::RouteHeader;

pub use netlink_packet_route::route::RouteType as RouteKind;
pub use next_hop::{NextHop, NextHopState};
pub use query::RouteQuery;

/// A unicast route through one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to; /0 is the default route.
    pub dst: IpNetwork,
    /// The next hop; none if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The link's index.
    pub device: u32,
    /// The metric: of two routes to the same place the lower one is taken. The kernel's default is 0 for IPv4 and 1024
    /// for IPv6.
    pub priority: Option<u32>,
    /// The table; main (254) if none.
    pub table: Option<u32>,
    /// IPv4 only: `RT_SCOPE_*`. If none, link (253) without a gateway and universe (0) with one, as `ip route` has it.
    pub scope: Option<u8>,
    /// The path's MTU in bytes.
    pub mtu: Option<u32>,
    /// The TCP segment size to advertise, in bytes.
    pub advmss: Option<u32>,
    /// The source address to prefer.
    pub source: Option<IpAddr>,
    /// Take the gateway to be on the link, though no route says so.
    pub onlink: bool,
    /// Who made it (`RTPROT_*`, or a number of one's own that ip-route(8) calls the route's protocol): `boot` (3) if none, as the
    /// Go plugins' routes have it. If it is given, only a route of this protocol is deleted. Lists have it
    /// if they are of one protocol ([`Netlink::routes_of_protocol`](crate::Netlink::routes_of_protocol)).
    pub protocol: Option<u8>,
    /// In lists: the kernel made it for an address or a router's announcement (`RTPROT_KERNEL`).
    pub by_kernel: bool,
    /// In lists: the kernel made it from a router advertisement (`RTPROT_RA`).
    pub advertised: bool,
}

/// Which routes to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteFilter {
    /// Of which IP version.
    pub family: Family,
    /// Through this link only.
    pub device: Option<u32>,
    /// Of this table only (main is 254); of every table, `local` (255) too, if none.
    pub table: Option<u32>,
}

/// The kernel's choice for a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteLookup {
    /// Out by this link.
    pub device: u32,
    /// To this next hop; none if the destination is on the link, or is this machine.
    pub gateway: Option<IpAddr>,
    /// From this address.
    pub source: Option<IpAddr>,
    /// Unicast, or `Local` if the destination is an address of this namespace, `Broadcast`, …
    pub kind: RouteKind,
}

impl Route {
    /// A route in the main table with the kernel's choice of everything else.
    pub fn new(dst: IpNetwork, gateway: Option<IpAddr>, device: u32) -> Route {
        Route {
            dst,
            gateway,
            device,
            priority: None,
            table: None,
            scope: None,
            mtu: None,
            advmss: None,
            source: None,
            onlink: false,
            protocol: None,
            by_kernel: false,
            advertised: false,
        }
    }

    /// True if it is of the main table, which is that of routes that state none.
    pub fn is_in_main(&self) -> bool {
        self.table.is_none_or(|table| table == u32::from(RouteHeader::RT_TABLE_MAIN))
    }

    /// True if `present`, as [`Netlink::routes`](crate::Netlink::routes) lists it, is this route: the same place, way
    /// and table, and the same of whatever else this one states.
    pub fn is_met_by(&self, present: &Route) -> bool {
        fn met<T: PartialEq + Copy>(wanted: Option<T>, present: Option<T>) -> bool {
            wanted.is_none() || wanted == present
        }
        const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;
        (self.dst.network(), self.dst.prefix()) == (present.dst.network(), present.dst.prefix())
            && (self.gateway, self.device) == (present.gateway, present.device)
            && self.table.unwrap_or(MAIN) == present.table.unwrap_or(MAIN)
            && met(self.priority, present.priority)
            // IPv6 has no scopes; the kernel always reports universe.
            && (self.dst.is_ipv6() || met(self.scope, present.scope))
            && met(self.mtu, present.mtu)
            && met(self.advmss, present.advmss)
            && met(self.source, present.source)
            && (!self.onlink || present.onlink)
    }
}

/// Destination, next hop, table and metric in the words of `ip route`, without the device: `default via 10.0.0.1 table 100 metric 7`.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dst.prefix() {
            0 => f.write_str("default")?,
            _ => write!(f, "{}", self.dst)?,
        }
        let words = [
            self.gateway.map(|gateway| format!(" via {gateway}")),
            self.table.map(|table| format!(" table {table}")),
            self.priority.map(|priority| format!(" metric {priority}")),
        ];
        words.into_iter().flatten().try_for_each(|word| f.write_str(&word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(dst: &str) -> Route {
        Route::new(dst.parse().unwrap(), Some("10.0.0.1".parse().unwrap()), 7)
    }

    #[test]
    fn what_is_not_stated_is_not_compared() {
        let listed =
            Route { priority: Some(5), table: Some(254), scope: Some(0), mtu: Some(1400), ..route("192.0.2.0/24") };
        assert!(route("192.0.2.0/24").is_met_by(&listed));
        assert!(Route { mtu: Some(1400), priority: Some(5), ..route("192.0.2.0/24") }.is_met_by(&listed));
        for other in [
            Route { mtu: Some(1300), ..route("192.0.2.0/24") },
            Route { priority: Some(6), ..route("192.0.2.0/24") },
            Route { advmss: Some(1300), ..route("192.0.2.0/24") },
            Route { table: Some(100), ..route("192.0.2.0/24") },
            Route { scope: Some(253), ..route("192.0.2.0/24") },
            Route { device: 8, ..route("192.0.2.0/24") },
            Route { gateway: None, ..route("192.0.2.0/24") },
            Route { onlink: true, ..route("192.0.2.0/24") },
            Route { source: Some("10.0.0.5".parse().unwrap()), ..route("192.0.2.0/24") },
            route("192.0.2.0/25"),
        ] {
            assert!(!other.is_met_by(&listed), "{other:?}");
        }
    }

    #[test]
    fn ipv6_destinations_lose_their_host_bits_and_scopes() {
        let listed =
            Route { table: Some(254), scope: Some(0), ..Route::new("2001:db8::/32".parse().unwrap(), None, 7) };
        let wanted = Route { scope: Some(253), ..Route::new("2001:db8::7/32".parse().unwrap(), None, 7) };
        assert!(wanted.is_met_by(&listed));
    }
}
