//! Adding and deleting routes.

use std::net::IpAddr;

use cni_plugin::Family;
use ipnetwork::IpNetwork;
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType, RouteVia,
};

use super::Route;
use crate::errno::Errno;
use crate::error::{NetError, Operation};
use crate::netlink::{Netlink, address_family, rtm};

impl Netlink {
    /// Adds the route, beside what is there: it replaces nothing. Not idempotent.
    ///
    /// # Errors
    /// [`NetError::Exists`] if the very same route (destination, metric, table, gateway, link) is there;
    /// [`NetError::NoSuchLink`]; otherwise the kernel's, which refuses host bits in an IPv4 destination and clears them
    /// in an IPv6 one, and refuses a gateway that no route on a link leads to, unless `onlink` is set.
    pub fn add_route(&self, route: &Route) -> Result<(), NetError> {
        let operation =
            Operation::AddRoute { link: route.device.into(), destination: route.dst, gateway: route.gateway };
        // Neither NLM_F_EXCL, which would refuse a second gateway to the same destination, nor NLM_F_REPLACE.
        match self.tell(rtm::NEWROUTE, &route_message(route), NLM_F_CREATE) {
            Ok(_) => Ok(()),
            Err(failure) if failure.is(Errno::EXIST) => {
                Err(NetError::Exists { operation: operation.with_name(self), name: "this route".to_owned() })
            }
            Err(failure) => Err(failure.during(self, operation)),
        }
    }

    /// Deletes the route that agrees with all that is given. Idempotent: false if there is none, or no such link.
    ///
    /// # Errors
    /// [`NetError`], with the kernel's error number.
    pub fn delete_route(&self, route: &Route) -> Result<bool, NetError> {
        let mut message = route_message(route);
        // Zero and "nowhere" match any protocol, type and scope (ip-route(8) and fib_table_delete).
        message.header.protocol = route.protocol.map_or(RouteProtocol::Unspec, RouteProtocol::from);
        if route.scope.is_none() {
            message.header.scope = RouteScope::NoWhere;
        }
        match self.tell(rtm::DELROUTE, &message, 0) {
            Ok(_) => Ok(true),
            Err(failure) if failure.is(Errno::SRCH) || failure.is(Errno::NODEV) => Ok(false),
            Err(failure) => Err(failure.during(
                self,
                Operation::DeleteRoute { link: route.device.into(), destination: route.dst, gateway: route.gateway },
            )),
        }
    }
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = address_family(Family::of(route.dst.ip()));
    header.destination_prefix_length = route.dst.prefix();
    header.kind = RouteType::Unicast;
    header.protocol = route.protocol.map_or(RouteProtocol::Boot, RouteProtocol::from);
    header.scope = match route.scope {
        Some(scope) => scope.into(),
        None if route.dst.is_ipv4() && route.gateway.is_none() => RouteScope::Link,
        None => RouteScope::Universe,
    };
    header.flags.set(RouteFlags::Onlink, route.onlink);
    // The header has room for tables below 256 only; RTA_TABLE takes precedence over it.
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
