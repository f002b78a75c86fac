//! Warns of a subnet that is already routed through another link, such as `docker0`. ADD succeeds nevertheless.

use cni_net::{NetError, Netlink, Route, RouteFilter};
use cni_plugin::Family;
use ipnetwork::IpNetwork;

/// The main routing table (`RT_TABLE_MAIN`).
const MAIN: u32 = 254;
/// The metric of the kernel's route for an IPv6 address (`IP6_RT_PRIO_ADDRCONF` in include/net/ip6_route.h). IPv4's is 0.
const IPV6_METRIC: u32 = 256;

/// How another link's route conflicts with a subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clash {
    /// The route is to the same subnet, and preferred to the bridge's own.
    Whole,
    /// The route is to a part of the subnet.
    Part,
    /// The route is to the other link's own subnet, which contains this one: the bridge's route takes a part of its packets.
    /// Other wider routes, the default route above all, give way; those of daemons to the networks of other nodes are meant to
    /// be wider.
    Wider,
}

impl Clash {
    fn of(route: &Route, subnet: IpNetwork) -> Option<Self> {
        let (prefix, own) = (route.dst.prefix(), if subnet.is_ipv4() { 0 } else { IPV6_METRIC });
        if prefix >= subnet.prefix() && subnet.contains(route.dst.ip()) {
            if prefix > subnet.prefix() {
                return Some(Self::Part);
            }
            // Of two with the same metric the older one is taken.
            return (route.priority.unwrap_or(0) <= own).then_some(Self::Whole);
        }
        let is_wider = route.by_kernel && route.gateway.is_none() && route.dst.contains(subnet.ip());
        is_wider.then_some(Self::Wider)
    }

    fn message(self, subnet: IpNetwork, route: IpNetwork, link: &str) -> String {
        match self {
            Self::Whole => format!(
                "the subnet {subnet} is already routed through {link} (route {route}): packets for the containers go there; \
                 choose another subnet, or delete that route"
            ),
            Self::Part => format!(
                "{route}, a part of the subnet {subnet}, is routed through {link}: packets for containers with such an address \
                 go there; choose another subnet, or delete that route"
            ),
            Self::Wider => format!(
                "the subnet {subnet} is a part of {route}, which is on {link}: hosts there with an address of {subnet} are \
                 no longer reachable; choose another subnet"
            ),
        }
    }
}

/// Warns the operator on stderr. Not an error: that route may be about to go. Lists the main table, so it is for the first
/// ADD on a node.
pub fn warn(socket: &Netlink, subnet: IpNetwork, own: u32) {
    if let Ok(Some(message)) = find(socket, subnet, own) {
        eprintln!("{message}");
    }
}

fn find(socket: &Netlink, subnet: IpNetwork, own: u32) -> Result<Option<String>, NetError> {
    let filter = RouteFilter { family: Family::of(subnet.ip()), device: None, table: Some(MAIN) };
    let routes = socket.routes(&filter)?.into_iter().filter(|route| route.device != own);
    let mut clashes = routes.filter_map(|route| Some((Clash::of(&route, subnet)?, route))).collect::<Vec<_>>();
    clashes.sort_by_key(|(clash, _)| *clash as u8);
    let Some((clash, route)) = clashes.first() else { return Ok(None) };
    let link = socket.link_by_index(route.device)?.map_or_else(|| format!("link {}", route.device), |link| link.name);
    Ok(Some(clash.message(subnet, route.dst, &link)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worse_and_wider_routes_give_way() {
        let clash = |dst: &str, metric: Option<u32>, by_kernel: bool| {
            let subnet = if dst.contains(':') { "fd00:1::/64" } else { "10.1.0.0/16" };
            let route = Route { priority: metric, by_kernel, ..Route::new(dst.parse().unwrap(), None, 7) };
            Clash::of(&route, subnet.parse().unwrap())
        };
        assert_eq!(clash("10.1.0.0/16", None, true), Some(Clash::Whole));
        assert_eq!(clash("10.1.0.0/16", Some(100), false), None);
        assert_eq!(clash("fd00:1::/64", Some(256), true), Some(Clash::Whole));
        assert_eq!(clash("fd00:1::/64", Some(1024), false), None);
        assert_eq!(clash("10.1.2.3/32", Some(100), false), Some(Clash::Part));
        assert_eq!(clash("10.0.0.0/8", None, true), Some(Clash::Wider));
        assert_eq!(clash("10.0.0.0/8", None, false), None);
        assert_eq!(clash("10.2.0.0/16", None, true), None);
    }
}
