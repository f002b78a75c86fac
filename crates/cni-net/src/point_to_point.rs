//! Links with nobody but the node at the other end, as `ptp` makes them.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::Route;

/// An address on a link with nobody but its gateway at the other end.
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
        let subnet = IpNetwork::new(self.address.network(), self.address.prefix()).unwrap_or(self.address);
        let mut routes = vec![Route { source, ..Route::new(IpNetwork::from(self.gateway), None, index) }];
        if subnet.prefix() < IpNetwork::from(self.address.ip()).prefix() {
            routes.push(Route { source, ..Route::new(subnet, Some(self.gateway), index) });
        }
        routes
    }
}

/// The routes that these take on the link with this index, in an order in which each one's next hop can be reached.
///
/// Addresses of one subnet share its gateway; the first of them is the source.
pub(crate) fn routes(hops: &[PointToPoint], index: u32) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    for route in hops.iter().flat_map(|hop| hop.routes(index)) {
        if !routes.iter().any(|known| (known.dst, known.gateway) == (route.dst, route.gateway)) {
            routes.push(route);
        }
    }
    routes
}

/// True for a neighbour in a subnet that is behind a gateway other than it: the kernel would not take it for a next
/// hop, as no route says that it is on the link.
pub(crate) fn is_hidden(hops: &[PointToPoint], next_hop: IpAddr) -> bool {
    hops.iter().any(|hop| hop.address.contains(next_hop)) && !hops.iter().any(|hop| hop.gateway == next_hop)
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
        let routes: Vec<String> = routes(&hops(), 7).into_iter().map(shown).collect();
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
        let is_hidden = |next_hop: &str| is_hidden(&hops(), next_hop.parse().unwrap());
        assert!(is_hidden("10.0.0.9") && is_hidden("fd00::9"));
        assert!(!is_hidden("10.0.0.1") && !is_hidden("10.7.0.9") && !is_hidden("fd01::1"));
    }
}
