//! Links with only the node at the other end, as `ptp` makes them.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use cni_net::Route;
use ipnetwork::IpNetwork;

/// An address on a link with only its gateway at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PointToPoint {
    /// The address, with its subnet's prefix length.
    pub address: IpNetwork,
    /// The node's address on the link.
    pub gateway: IpAddr,
}

impl PointToPoint {
    /// To the gateway over the link, and to the subnet, if it is more than the address itself, through the gateway.
    fn routes(&self, index: u32) -> Vec<Route> {
        let source = Some(self.address.ip());
        let subnet = network(self.address.ip(), self.address.prefix());
        let mut routes = vec![Route { source, ..Route::new(IpNetwork::from(self.gateway), None, index) }];
        if subnet.prefix() < IpNetwork::from(self.address.ip()).prefix() {
            routes.push(Route { source, ..Route::new(subnet, Some(self.gateway), index) });
        }
        routes
    }
}

/// The links' ends of an interface, prepared for questions about many of them: each is answered in constant time.
pub(crate) struct Hops<'a> {
    hops: &'a [PointToPoint],
    gateways: HashSet<IpAddr>,
    subnets: HashSet<IpNetwork>,
    /// The prefix lengths in `subnets`, by family: IPv4, IPv6.
    prefixes: [BTreeSet<u8>; 2],
}

impl<'a> Hops<'a> {
    pub(crate) fn of(hops: &'a [PointToPoint]) -> Self {
        let mut prefixes = [BTreeSet::new(), BTreeSet::new()];
        for hop in hops {
            prefixes[usize::from(hop.address.is_ipv6())].insert(hop.address.prefix());
        }
        let subnets = hops.iter().map(|hop| network(hop.address.ip(), hop.address.prefix())).collect();
        Self { hops, gateways: hops.iter().map(|hop| hop.gateway).collect(), subnets, prefixes }
    }

    /// The routes that these take on the link with this index, in an order in which each one's next hop can be reached.
    ///
    /// Addresses of one subnet share its gateway; the first of them is the source.
    pub(crate) fn routes(&self, index: u32) -> Vec<Route> {
        let mut seen = HashSet::new();
        let routes = self.hops.iter().flat_map(|hop| hop.routes(index));
        routes.filter(|route| seen.insert((route.dst, route.gateway))).collect()
    }

    /// True for a neighbour in a subnet that is behind a gateway other than it: the kernel would not take it for a next
    /// hop, as no route says that it is on the link.
    pub(crate) fn hides(&self, next_hop: IpAddr) -> bool {
        let prefixes = &self.prefixes[usize::from(next_hop.is_ipv6())];
        let is_behind = prefixes.iter().any(|prefix| self.subnets.contains(&network(next_hop, *prefix)));
        is_behind && !self.gateways.contains(&next_hop)
    }
}

fn network(ip: IpAddr, prefix: u8) -> IpNetwork {
    let whole = IpNetwork::new(ip, prefix).unwrap_or_else(|_| IpNetwork::from(ip));
    IpNetwork::new(whole.network(), whole.prefix()).unwrap_or(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops() -> Vec<PointToPoint> {
        let hop = |address: &str, gateway: &str| PointToPoint {
            address: address.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
        };
        vec![
            hop("10.0.0.5/24", "10.0.0.1"),
            hop("10.0.0.6/24", "10.0.0.1"),
            hop("10.1.0.5/32", "10.0.0.1"),
            hop("fd00::5/64", "fd00::1"),
        ]
    }

    #[test]
    fn the_subnet_is_behind_its_gateway() {
        let shown = |route: Route| {
            let gateway = route.gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
            format!("{}{gateway} src {}", route.dst, route.source.unwrap())
        };
        let routes: Vec<String> = Hops::of(&hops()).routes(7).into_iter().map(shown).collect();
        assert_eq!(
            routes,
            [
                "10.0.0.1/32 src 10.0.0.5",
                "10.0.0.0/24 via 10.0.0.1 src 10.0.0.5",
                "fd00::1/128 src fd00::5",
                "fd00::/64 via fd00::1 src fd00::5",
            ]
        );
    }

    #[test]
    fn neighbours_are_hidden_and_gateways_and_strangers_are_not() {
        let hops = hops();
        let hops = Hops::of(&hops);
        let is_hidden = |next_hop: &str| hops.hides(next_hop.parse().unwrap());
        assert!(is_hidden("10.0.0.9") && is_hidden("fd00::9"));
        assert!(!is_hidden("10.0.0.1") && !is_hidden("10.7.0.9") && !is_hidden("fd01::1"));
    }
}
