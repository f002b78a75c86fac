//! Serving 127.0.0.1: the kernel routes such a packet out of the node only where the link's `route_localnet` allows it,
//! and the link must then be guarded against its neighbours (CVE-2020-8558).

use std::net::IpAddr;

use cni_net::{Link, NetError, Netlink, pair, sysctl};
use cni_netfilter::{PortForwards, Snat};
use cni_plugin::{CniError, CniResult, Difference, IfName, Owner};

/// The link towards the container, if a packet from 127.0.0.1 may have to go there: IPv4 with source NAT.
///
/// A container that the node has no route to is served without 127.0.0.1.
pub fn way(socket: &Netlink, wanted: &[PortForwards]) -> Result<Option<IfName>, CniError> {
    let is_served = |forwards: &&PortForwards| forwards.container.is_ipv4() && forwards.snat != Snat::Off;
    let Some(forwards) = wanted.iter().find(is_served) else { return Ok(None) };
    let container: IpAddr = forwards.container.ip();
    let route = match socket.route_to(container) {
        Ok(route) => route,
        // ENETUNREACH and EHOSTUNREACH: the kernel's way to say that there is none.
        Err(NetError::Refused { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let Some(route) = route else { return Ok(None) };
    match socket.link_by_index(route.device)? {
        Some(link) if !link.loopback => Ok(Some(link.name.parse()?)),
        _ => Ok(None),
    }
}

/// Puts the guard into the IPv4 plan.
pub fn guard(wanted: &mut [PortForwards], way: Option<&IfName>) {
    for forwards in wanted.iter_mut().filter(|forwards| forwards.container.is_ipv4()) {
        forwards.guard_localnet = way.cloned();
    }
}

/// Lets packets from and to 127.0.0.0/8 through the link. Idempotent; not taken back, as other containers need it.
pub fn permit(way: &IfName) -> Result<(), CniError> {
    sysctl::ensure(&path(way), "1").map(drop).map_err(|error| {
        CniError::plugin(format!("unable to enable route_localnet, so that 127.0.0.1 could be served: {error}"))
    })
}

/// The setting, if it isn't as [`permit`] left it.
pub fn check(way: &IfName) -> Result<Option<Difference>, CniError> {
    let found = sysctl::read(&path(way))?;
    Ok((found.trim() != "1").then(|| Difference::new(format!("sysctl {}", path(way)), "1", found.trim())))
}

/// The interfaces whose guard goes with the container: links to it alone, and those that the previous result names and
/// that are gone already. A bridge's guard stays, for others are behind it.
pub fn no_longer_used(socket: &Netlink, owner: &Owner, told: Option<&CniResult>) -> Result<Vec<IfName>, CniError> {
    let is_own = |link: &Link| link.master.is_none() && link.kind.as_deref() == Some("veth");
    let found = pair::find(socket, owner)?.filter(is_own);
    let mut names: Vec<IfName> = found.iter().filter_map(|link| link.name.parse().ok()).collect();
    let interfaces = told.iter().flat_map(|told| &told.interfaces);
    for interface in interfaces.filter(|interface| interface.sandbox.is_empty()) {
        let Ok(name) = interface.name.parse() else { continue };
        if !names.contains(&name) && socket.link_by_name(&interface.name)?.is_none_or(|link| is_own(&link)) {
            names.push(name);
        }
    }
    Ok(names)
}

fn path(way: &IfName) -> String {
    format!("net/ipv4/conf/{way}/route_localnet")
}
