//! The node's link to the container: by the owner's mark, and by the route to its address.

use std::net::IpAddr;

use cni_attach::pair;
use cni_net::{NetError, Netlink};
use cni_netfilter::{PortForwards, Snat};
use cni_plugin::{CniError, CniResult, IfName, Owner};

/// Writes the index of the veth that the owner's plugin made, or that the previous result names, into the plan: while this link
/// exists, the container does. Left unknown if the container is attached in another way (macvlan, a moved device), or gone.
pub fn note_index(
    socket: &Netlink,
    owner: &Owner,
    prev: &CniResult,
    wanted: &mut [PortForwards],
) -> Result<(), NetError> {
    let link = pair::find_or_reported(socket, owner, prev)?.map(|link| link.index);
    wanted.iter_mut().for_each(|forwards| forwards.link = link);
    Ok(())
}

/// The link by which a packet from 127.0.0.1 leaves for the container, if there may be one: a port is published on 127.0.0.1
/// with source translation. It needs `route_localnet`.
///
/// `None` too if the node has no route to the container, or only one by a gateway; the container is then served without
/// 127.0.0.1. Where the container's link has gone meanwhile, the default route answers, and the setting is not for the uplink.
pub fn serving_loopback(socket: &Netlink, wanted: &[PortForwards]) -> Result<Option<IfName>, CniError> {
    let on_loopback = |forwards: &&PortForwards| forwards.guard_localnet && forwards.snat != Snat::Off;
    let Some(forwards) = wanted.iter().find(on_loopback) else { return Ok(None) };
    let container: IpAddr = forwards.container.ip();
    let route = match socket.route_to(container) {
        Ok(route) => route,
        // ENETUNREACH and EHOSTUNREACH: there is none.
        Err(NetError::Refused { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let Some(route) = route.filter(|route| route.gateway.is_none()) else { return Ok(None) };
    match socket.link_by_index(route.device)? {
        Some(link) if !link.loopback => Ok(Some(link.name.parse()?)),
        _ => Ok(None),
    }
}
