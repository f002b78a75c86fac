//! Serving 127.0.0.1: the kernel routes such a packet out of the node only where the link's `route_localnet` allows it,
//! and the link must then be guarded against its neighbours (CVE-2020-8558).

use std::net::IpAddr;

use cni_net::{NetError, Netlink, sysctl};
use cni_netfilter::{PortForwards, Snat};
use cni_plugin::{CniError, CniResult, Difference, IfName};

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

/// The links of the result that served this attachment only, gone or about to go: their guards need not stay.
///
/// Where one of the result's links is a bridge, the way is through it, and others share it. What is still there gets
/// its `route_localnet` switched off, before it loses its guard.
pub fn withdraw(socket: &Netlink, wanted: &[PortForwards], told: &CniResult) -> Result<Vec<IfName>, CniError> {
    if !wanted.iter().any(is_served) {
        return Ok(Vec::new());
    }
    let mut own = Vec::new();
    for interface in told.interfaces.iter().filter(|interface| interface.sandbox.is_empty()) {
        let Ok(name) = interface.name.parse::<IfName>() else { continue };
        match socket.link_by_name(name.as_str())? {
            Some(link) if link.kind.as_deref() == Some("bridge") => return Ok(Vec::new()),
            Some(link) if link.kind.as_deref() == Some("veth") && link.master.is_none() => {
                sysctl::ensure(&path(&name), "0")?;
                own.push(name);
            }
            Some(_) => {}
            None => own.push(name),
        }
    }
    Ok(own)
}

fn is_served(forwards: &PortForwards) -> bool {
    forwards.container.is_ipv4() && forwards.snat != Snat::Off
}

/// The setting, if it isn't as [`permit`] left it.
pub fn check(way: &IfName) -> Result<Option<Difference>, CniError> {
    let found = sysctl::read(&path(way))?;
    Ok((found.trim() != "1").then(|| Difference::new(format!("sysctl {}", path(way)), "1", found.trim())))
}

fn path(way: &IfName) -> String {
    format!("net/ipv4/conf/{way}/route_localnet")
}
