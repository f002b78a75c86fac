//! Routes that are known by their protocol number.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use cni_net::{NetError, Netlink, Route};
use cni_plugin::Family;
use ipnetwork::IpNetwork;

use super::Done;

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The next hop.
    pub gateway: IpAddr,
    /// The link's index.
    pub link: u32,
    /// The next hop is taken to be on the link.
    pub onlink: bool,
}

/// All routes of this protocol, by this link only if one is given.
///
/// # Errors
/// The kernel's.
pub fn list(netlink: &Netlink, protocol: u8, link: Option<u32>) -> Result<Vec<Route>, NetError> {
    let mut routes = netlink.routes_of_protocol(Family::V4, protocol)?;
    routes.extend(netlink.routes_of_protocol(Family::V6, protocol)?);
    routes.retain(|route| link.is_none_or(|link| route.device == link));
    Ok(routes)
}

/// Makes `present` what is wanted. A route that leads elsewhere is deleted when the new one is there, so that no packet is lost between.
pub fn settle(netlink: &Netlink, protocol: u8, present: &[Route], wanted: &HashMap<IpNetwork, Hop>, done: &mut Done) {
    let leads = |route: &Route, hop: &Hop| {
        route.gateway == Some(hop.gateway)
            && route.device == hop.link
            && route.is_in_main()
            && (route.onlink || !hop.onlink)
    };
    let (right, wrong): (Vec<&Route>, Vec<&Route>) =
        present.iter().partition(|route| wanted.get(&route.dst).is_some_and(|hop| leads(route, hop)));
    let right: HashSet<IpNetwork> = right.into_iter().map(|route| route.dst).collect();
    for (dst, hop) in wanted.iter().filter(|(dst, _)| !right.contains(*dst)) {
        let route =
            Route { protocol: Some(protocol), onlink: hop.onlink, ..Route::new(*dst, Some(hop.gateway), hop.link) };
        match netlink.add_route(&route) {
            // IPv6: the same route with another protocol, made by hand, say.
            Err(NetError::Exists { .. }) => {}
            outcome => done.count(outcome),
        }
    }
    for route in wrong {
        match netlink.delete_route(route) {
            Ok(false) => {}
            outcome => done.count(outcome.map(drop)),
        }
    }
    done.entries += wanted.len();
}
