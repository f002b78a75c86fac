//! Routes: adding, deleting, listing, and asking the kernel which one it would take.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::Errno;
use crate::{NetError, Netlink, Operation};

pub use netlink_packet_route::route::RouteType as RouteKind;

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
}

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Family {
    V4,
    V6,
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

impl Family {
    /// The address's version.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    fn constant(self) -> AddressFamily {
        match self {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        }
    }

    fn unspecified(self) -> IpAddr {
        match self {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }
}

impl Netlink {
    /// Adds the route, beside what is there: it replaces nothing. Not idempotent.
    ///
    /// # Errors
    /// [`NetError::Exists`] if the very same route (destination, metric, table, gateway, link) is there;
    /// [`NetError::NoSuchLink`]; otherwise the kernel's, which refuses host bits in an IPv4 destination and clears them
    /// in an IPv6 one, and refuses a gateway that no route on a link leads to, unless `onlink` is set.
    pub fn add_route(&self, route: &Route) -> Result<(), NetError> {
        let operation = Operation::AddRoute { link: route.device, destination: route.dst, gateway: route.gateway };
        // Neither NLM_F_EXCL, which would refuse a second gateway to the same destination, nor NLM_F_REPLACE.
        match self.ask(RouteNetlinkMessage::NewRoute(route_message(route)), NLM_F_CREATE) {
            Ok(_) => Ok(()),
            Err(failure) if failure.is(Errno::EXIST) => {
                Err(NetError::Exists { operation, name: "this route".to_owned() })
            }
            Err(failure) => Err(failure.during(operation)),
        }
    }

    /// Deletes the route that agrees with all that is given. Idempotent: false if there is none, or no such link.
    ///
    /// # Errors
    /// The kernel's.
    pub fn delete_route(&self, route: &Route) -> Result<bool, NetError> {
        let mut message = route_message(route);
        // Zero and "nowhere" match any protocol, type and scope (ip-route(8) and fib_table_delete).
        message.header.protocol = RouteProtocol::Unspec;
        if route.scope.is_none() {
            message.header.scope = RouteScope::NoWhere;
        }
        match self.ask(RouteNetlinkMessage::DelRoute(message), 0) {
            Ok(_) => Ok(true),
            Err(failure) if failure.is(Errno::SRCH) || failure.is(Errno::NODEV) => Ok(false),
            Err(failure) => Err(failure.during(Operation::DeleteRoute {
                link: route.device,
                destination: route.dst,
                gateway: route.gateway,
            })),
        }
    }

    /// The unicast routes that pass the filter, which the kernel applies. A route with several next hops is listed once
    /// for each.
    ///
    /// # Errors
    /// [`NetError::NoSuchLink`] if the filter's link does not exist; otherwise the kernel's.
    pub fn routes(&self, filter: &RouteFilter) -> Result<Vec<Route>, NetError> {
        let mut message = RouteMessage::default();
        message.header.address_family = filter.family.constant();
        message.attributes.extend(filter.table.map(RouteAttribute::Table));
        message.attributes.extend(filter.device.map(RouteAttribute::Oif));
        let answers = match self.dump(&RouteNetlinkMessage::GetRoute(message)) {
            Ok(answers) => answers,
            // The table has never had a route.
            Err(failure) if failure.is(Errno::NOENT) => return Ok(Vec::new()),
            Err(failure) => return Err(failure.during(Operation::ListRoutes)),
        };
        let mut routes: Vec<Route> = answers.iter().filter_map(described).flat_map(Route::from_message).collect();
        // Of a route with several next hops the kernel sends all, also those through other links.
        routes.retain(|route| filter.device.is_none_or(|device| route.device == device));
        Ok(routes)
    }

    /// The route that a packet from here to `destination` would take, as `ip route get` says it. `None` if there is
    /// none. Constant time.
    ///
    /// # Errors
    /// The kernel's: `EACCES` for a `prohibit` route, `EINVAL` for a `blackhole`.
    pub fn route_to(&self, destination: IpAddr) -> Result<Option<RouteLookup>, NetError> {
        let mut message = RouteMessage::default();
        message.header.address_family = Family::of(destination).constant();
        message.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(destination.into()));
        let operation = Operation::LookUpRoute { to: destination };
        match self.ask(RouteNetlinkMessage::GetRoute(message), 0) {
            Ok(answers) => {
                let found = answers.iter().find_map(described).and_then(RouteLookup::from_message);
                found.map(Some).ok_or(NetError::NoAnswer { operation })
            }
            Err(failure) if failure.is(Errno::NETUNREACH) || failure.is(Errno::HOSTUNREACH) => Ok(None),
            Err(failure) => Err(failure.during(operation)),
        }
    }
}

fn described(message: &RouteNetlinkMessage) -> Option<&RouteMessage> {
    match message {
        // Cloned: IPv6 keeps what it learned about single destinations (RFC 8201) beside the routes.
        RouteNetlinkMessage::NewRoute(message) if !message.header.flags.contains(RouteFlags::Cloned) => Some(message),
        _ => None,
    }
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = Family::of(route.dst.ip()).constant();
    header.destination_prefix_length = route.dst.prefix();
    header.kind = RouteType::Unicast;
    // As the Go plugins' routes have it.
    header.protocol = RouteProtocol::Boot;
    header.scope = match route.scope {
        Some(scope) => scope.into(),
        None if route.dst.is_ipv4() && route.gateway.is_none() => RouteScope::Link,
        None => RouteScope::Universe,
    };
    header.flags.set(RouteFlags::Onlink, route.onlink);
    // The header has room for tables below 256 only; RTA_TABLE goes before it.
    header.table = RouteHeader::RT_TABLE_UNSPEC;
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table.unwrap_or(RouteHeader::RT_TABLE_MAIN.into())));
    attributes.push(RouteAttribute::Destination(route.dst.ip().into()));
    attributes.extend(route.gateway.map(|gateway| gateway_attribute(route.dst, gateway)));
    attributes.push(RouteAttribute::Oif(route.device));
    attributes.extend(route.priority.map(RouteAttribute::Priority));
    attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    let mut metrics = Vec::new();
    metrics.extend(route.mtu.map(RouteMetric::Mtu));
    metrics.extend(route.advmss.map(RouteMetric::Advmss));
    if !metrics.is_empty() {
        attributes.push(RouteAttribute::Metrics(metrics));
    }
    message
}

/// An IPv4 route may lead through an IPv6 gateway (RFC 5549), in another attribute.
fn gateway_attribute(destination: IpNetwork, gateway: IpAddr) -> RouteAttribute {
    match gateway {
        IpAddr::V6(gateway) if destination.is_ipv4() => RouteAttribute::Via(RouteVia::Inet6(gateway)),
        _ => RouteAttribute::Gateway(gateway.into()),
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

/// The attributes that a route and each of its next hops have in common.
fn next_hop(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
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
        }
    }

    /// One route for each next hop; none if it is not a unicast route.
    fn from_message(message: &RouteMessage) -> Vec<Route> {
        let header = &message.header;
        let family = if header.address_family == AddressFamily::Inet { Family::V4 } else { Family::V6 };
        if header.kind != RouteType::Unicast {
            return Vec::new();
        }
        let mut destination = family.unspecified();
        let mut hops = Vec::new();
        let Ok(anywhere) = IpNetwork::new(destination, 0) else { return Vec::new() };
        let mut route = Route::new(anywhere, None, 0);
        route.table = Some(header.table.into());
        route.scope = Some(header.scope.into());
        route.onlink = header.flags.contains(RouteFlags::Onlink);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => destination = ip(address).unwrap_or(destination),
                RouteAttribute::Oif(index) => route.device = *index,
                RouteAttribute::Priority(metric) => route.priority = Some(*metric),
                RouteAttribute::Table(table) => route.table = Some(*table),
                RouteAttribute::PrefSource(address) => route.source = ip(address),
                RouteAttribute::Metrics(metrics) => metrics.iter().for_each(|metric| route.take_metric(metric)),
                RouteAttribute::MultiPath(next_hops) => hops.clone_from(next_hops),
                other => route.gateway = next_hop(other).or(route.gateway),
            }
        }
        let Ok(dst) = IpNetwork::new(destination, header.destination_prefix_length) else { return Vec::new() };
        route.dst = dst;
        if hops.is_empty() {
            return vec![route];
        }
        let through = |hop: &RouteNextHop| Route {
            device: hop.interface_index,
            gateway: hop.attributes.iter().find_map(next_hop),
            onlink: hop.flags.contains(RouteNextHopFlags::Onlink),
            ..route.clone()
        };
        hops.iter().map(through).collect()
    }

    fn take_metric(&mut self, metric: &RouteMetric) {
        match metric {
            RouteMetric::Mtu(mtu) => self.mtu = Some(*mtu),
            RouteMetric::Advmss(advmss) => self.advmss = Some(*advmss),
            _ => {}
        }
    }
}

impl RouteLookup {
    fn from_message(message: &RouteMessage) -> Option<RouteLookup> {
        let mut device = None;
        let (mut gateway, mut source) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => device = Some(*index),
                RouteAttribute::PrefSource(address) => source = ip(address),
                other => gateway = next_hop(other).or(gateway),
            }
        }
        Some(RouteLookup { device: device?, gateway, source, kind: message.header.kind })
    }
}
