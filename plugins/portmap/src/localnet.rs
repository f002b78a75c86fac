//! Serving 127.0.0.1: the kernel routes such a packet out of the node only where the link's `route_localnet` allows it,
//! and the link must then be guarded against its neighbours (CVE-2020-8558).

use std::collections::BTreeSet;
use std::net::IpAddr;

use cni_net::{Link, NetError, Netlink, RouteKind, pair, sysctl};
use cni_netfilter::{PortForwards, Snat};
use cni_plugin::{CniError, CniResult, Difference, IfName, Owner};

/// The link towards the container, if a packet from 127.0.0.1 may have to go there: IPv4 with source NAT.
///
/// A container that the node has no route to is served without 127.0.0.1.
pub fn way(socket: &Netlink, wanted: &[PortForwards]) -> Result<Option<IfName>, CniError> {
    let Some(forwards) = wanted.iter().find(|forwards| is_served(forwards)) else { return Ok(None) };
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

fn is_served(forwards: &PortForwards) -> bool {
    forwards.container.is_ipv4() && forwards.snat != Snat::Off
}

/// The setting, if it isn't as [`permit`] left it.
pub fn check(way: &IfName) -> Result<Option<Difference>, CniError> {
    let found = sysctl::read(&path(way))?;
    Ok((found.trim() != "1").then(|| Difference::new(format!("sysctl {}", path(way)), "1", found.trim())))
}

/// The interfaces whose guard goes with the container: links to it alone, and those that the previous result names and
/// that are gone already. A bridge's guard stays, for others are behind it.
///
/// What is still there gets its `route_localnet` switched off, before it loses its guard.
pub fn withdraw(socket: &Netlink, owner: &Owner, told: Option<&CniResult>) -> Result<Vec<IfName>, CniError> {
    let is_own = |link: &Link| link.master.is_none() && link.kind.as_deref() == Some("veth");
    let mut names: BTreeSet<IfName> = BTreeSet::new();
    let mut here: Vec<Link> = pair::find(socket, owner)?.into_iter().collect();
    let interfaces = told.iter().flat_map(|told| &told.interfaces);
    for interface in interfaces.filter(|interface| interface.sandbox.is_empty()) {
        match socket.link_by_name(&interface.name)? {
            Some(link) => here.push(link),
            None => names.extend(interface.name.parse::<IfName>()),
        }
    }
    for link in here.iter().filter(|link| is_own(link)) {
        let Ok(name) = link.name.parse() else { continue };
        sysctl::ensure(&path(&name), "0")?;
        names.insert(name);
    }
    Ok(names.into_iter().collect())
}

/// True for an address of the node: packets for it end here. Also if that can't be told, for a connection too many that
/// is forgotten does less harm than one too few. The kernel refuses to look up what a `prohibit` route denies.
pub fn is_local(socket: &Netlink, address: IpAddr) -> bool {
    match socket.route_to(address) {
        Ok(route) => route.is_some_and(|route| route.kind == RouteKind::Local),
        Err(error) => error.errno().is_none(),
    }
}

fn path(way: &IfName) -> String {
    format!("net/ipv4/conf/{way}/route_localnet")
}
