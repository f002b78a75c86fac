//! Serving 127.0.0.1: the kernel routes such a packet out of the node only where the link's `route_localnet` allows it,
//! and the node's own 127.0.0.0/8 must then be guarded against the link's neighbours (CVE-2020-8558).

use std::net::IpAddr;

use cni_net::{NetError, Netlink, RouteKind, localnet};
use cni_netfilter::{Netfilter, PortForwards, Snat};
use cni_plugin::{CniError, CniResult, Difference, IfName};

/// The link towards the container, if a packet from 127.0.0.1 may have to go there: IPv4 with source NAT, and a port that is
/// published on 127.0.0.1.
///
/// A container that the node has no route to, or only one by way of a gateway, is served without 127.0.0.1: where the container's
/// link has gone meanwhile, the default route answers, and the setting is not for the uplink.
pub fn way(socket: &Netlink, wanted: &[PortForwards]) -> Result<Option<IfName>, CniError> {
    let Some(forwards) = wanted.iter().find(|forwards| is_served(forwards)) else { return Ok(None) };
    let container: IpAddr = forwards.container.ip();
    let route = match socket.route_to(container) {
        Ok(route) => route,
        // ENETUNREACH and EHOSTUNREACH: the kernel's way to say that there is none.
        Err(NetError::Refused { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let Some(route) = route.filter(|route| route.gateway.is_none()) else { return Ok(None) };
    match socket.link_by_index(route.device)? {
        Some(link) if !link.loopback => Ok(Some(link.name.parse()?)),
        _ => Ok(None),
    }
}

/// Lets packets from and to 127.0.0.0/8 through the link. Idempotent; not taken back, as other containers need it.
pub fn permit(way: &IfName) -> Result<(), CniError> {
    localnet::permit(way).map_err(|error| {
        CniError::plugin(format!("unable to enable route_localnet, so that 127.0.0.1 could be served: {error}"))
    })
}

fn is_served(forwards: &PortForwards) -> bool {
    forwards.guard_localnet && forwards.snat != Snat::Off
}

/// The setting, if it isn't as [`permit`] left it.
pub fn check(way: &IfName) -> Result<Option<Difference>, CniError> {
    let (path, found) = (localnet::path(way.as_str()), localnet::read(way)?);
    Ok((found.trim() != "1").then(|| Difference::new(format!("sysctl {path}"), "1", found.trim())))
}

/// Puts the guard of 127.0.0.0/8 back where `route_localnet` is on: for the links that the previous result names, or any
/// that portmap has switched it on for. Constant time, and where it never was, no more than a look at some files.
pub fn keep_guarded(filter: &Netfilter, told: Option<&CniResult>) -> Result<(), CniError> {
    let links = told.into_iter().flat_map(|told| &told.interfaces).filter(|interface| interface.sandbox.is_empty());
    Ok(localnet::keep_guarded(links.map(|interface| interface.name.as_str()), || filter.guard_localnet())?)
}

/// True for an address of the node: packets for it end here. Also if that can't be told, for a connection too many that
/// is forgotten does less harm than one too few. The kernel refuses to look up what a `prohibit` route denies.
pub fn is_local(socket: &Netlink, address: IpAddr) -> bool {
    match socket.route_to(address) {
        Ok(route) => route.is_some_and(|route| route.kind == RouteKind::Local),
        Err(error) => error.errno().is_none(),
    }
}
