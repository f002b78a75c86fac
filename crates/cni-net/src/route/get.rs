//! Listing routes, and asking the kernel which one it would take.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni_plugin::Family;
use ipnetwork::IpNetwork;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteType, RouteVia,
};

use super::{Route, RouteFilter, RouteLookup};
use crate::errno::Errno;
use crate::error::{NetError, Operation};
use crate::netlink::{Netlink, Object, address_family, rtm};

impl Object for RouteMessage {
    const DESCRIBED_BY: &'static [u16] = &[rtm::NEWROUTE];
}

impl Netlink {
    /// The unicast routes that pass the filter, which the kernel applies. A route with several next hops is listed once
    /// for each.
    ///
    /// # Errors
    /// [`NetError::NoSuchLink`] if the filter's link does not exist; otherwise the kernel's.
    pub fn routes(&self, filter: &RouteFilter) -> Result<Vec<Route>, NetError> {
        let mut message = RouteMessage::default();
        message.header.address_family = address_family(filter.family);
        message.attributes.extend(filter.table.map(RouteAttribute::Table));
        message.attributes.extend(filter.device.map(RouteAttribute::Oif));
        let mut routes = self.list_routes(&message)?;
        // Of a route with several next hops the kernel sends all, also those through other links.
        routes.retain(|route| filter.device.is_none_or(|device| route.device == device));
        Ok(routes)
    }

    /// The unicast routes of all tables that have this protocol ([`Route::protocol`]). The kernel filters them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn routes_of_protocol(&self, family: Family, protocol: u8) -> Result<Vec<Route>, NetError> {
        let mut message = RouteMessage::default();
        message.header.address_family = address_family(family);
        message.header.protocol = protocol.into();
        let mut routes = self.list_routes(&message)?;
        // A kernel without IPv6 answers with the routes of all families.
        routes.retain(|route| Family::of(route.dst.ip()) == family);
        routes.iter_mut().for_each(|route| route.protocol = Some(protocol));
        Ok(routes)
    }

    fn list_routes(&self, message: &RouteMessage) -> Result<Vec<Route>, NetError> {
        let answers: Vec<RouteMessage> = match self.dump(rtm::GETROUTE, message) {
            Ok(answers) => answers,
            // The table has never had a route.
            Err(failure) if failure.is(Errno::NOENT) => return Ok(Vec::new()),
            Err(failure) => return Err(failure.during(self, Operation::ListRoutes)),
        };
        // Cloned: IPv6 keeps what it learned about single destinations (RFC 8201) beside the routes.
        let listed = answers.iter().filter(|m| !m.header.flags.contains(RouteFlags::Cloned));
        Ok(listed.flat_map(Route::from_message).collect())
    }

    /// The route that a packet from here to `destination` would take, as `ip route get` says it. `None` if there is
    /// none. Constant time.
    ///
    /// # Errors
    /// The kernel's: `EACCES` for a `prohibit` route, `EINVAL` for a `blackhole`.
    pub fn route_to(&self, destination: IpAddr) -> Result<Option<RouteLookup>, NetError> {
        self.look_up(destination, None)
    }

    /// The same for a packet that leaves by the link `device`, and so by the tables of its VRF if it is in one.
    ///
    /// # Errors
    /// As [`Netlink::route_to`].
    pub fn route_by(&self, device: u32, destination: IpAddr) -> Result<Option<RouteLookup>, NetError> {
        self.look_up(destination, Some(device))
    }

    /// The index of the link that has this address, which is one of the node's own; `None` if none has it. Constant time.
    ///
    /// # Errors
    /// The kernel's.
    pub fn link_of_address(&self, address: IpAddr) -> Result<Option<u32>, NetError> {
        let mut message = RouteMessage::default();
        // The entry of the table `local`, which names the link; without it the answer is `lo`.
        message.header.flags = RouteFlags::FibMatch;
        let found = self.ask_route(address, message)?;
        Ok(found.filter(|found| found.kind == RouteType::Local).map(|found| found.device))
    }

    fn look_up(&self, destination: IpAddr, device: Option<u32>) -> Result<Option<RouteLookup>, NetError> {
        let mut message = RouteMessage::default();
        message.attributes.extend(device.map(RouteAttribute::Oif));
        self.ask_route(destination, message)
    }

    pub(super) fn ask_route(
        &self,
        destination: IpAddr,
        mut message: RouteMessage,
    ) -> Result<Option<RouteLookup>, NetError> {
        message.header.address_family = address_family(Family::of(destination));
        message.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(destination.into()));
        let operation = Operation::LookUpRoute { to: destination };
        match self.ask(rtm::GETROUTE, &message, 0) {
            Ok(answers) => {
                let found = answers.first().and_then(RouteLookup::from_message);
                found.map(Some).ok_or(NetError::NoAnswer { operation })
            }
            Err(failure) if failure.is(Errno::NETUNREACH) || failure.is(Errno::HOSTUNREACH) => Ok(None),
            Err(failure) => Err(failure.during(self, operation)),
        }
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
    /// One route for each next hop; none if it is not a unicast route.
    fn from_message(message: &RouteMessage) -> Vec<Route> {
        let header = &message.header;
        if header.kind != RouteType::Unicast {
            return Vec::new();
        }
        // The kernel leaves out a destination of all zeros.
        let destination = message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Destination(address) => ip(address),
            _ => None,
        });
        let zeros = match header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let Ok(dst) = IpNetwork::new(destination.unwrap_or(zeros), header.destination_prefix_length) else {
            return Vec::new();
        };
        let mut route = Route::new(dst, None, 0);
        route.table = Some(header.table.into());
        route.scope = Some(header.scope.into());
        route.onlink = header.flags.contains(RouteFlags::Onlink);
        route.by_kernel = header.protocol == RouteProtocol::Kernel;
        route.advertised = header.protocol == RouteProtocol::Ra;
        let mut hops: &[RouteNextHop] = &[];
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::MultiPath(next_hops) => hops = next_hops,
                other => route.take(other),
            }
        }
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

    fn take(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Oif(index) => self.device = *index,
            RouteAttribute::Priority(metric) => self.priority = Some(*metric),
            RouteAttribute::Table(table) => self.table = Some(*table),
            RouteAttribute::PrefSource(address) => self.source = ip(address),
            RouteAttribute::Metrics(metrics) => metrics.iter().for_each(|metric| self.take_metric(metric)),
            other => self.gateway = next_hop(other).or(self.gateway),
        }
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
