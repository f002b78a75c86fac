//! What of an interface's addresses and routes isn't as [`Layer3`] says.

use std::collections::{HashMap, HashSet};

use cni_net::{Address, NetError, Netlink, Route, RouteFilter};
use cni_plugin::addr::same_family;
use cni_plugin::{CniResult, Difference, Family};
use ipnetwork::IpNetwork;

use super::{Layer3, Layer3Error, kernel_route};

impl Layer3 {
    /// As [`Layer3::check`], of what `result`, the result of ADD, says: without the routes that later plugins added to it for
    /// other interfaces.
    ///
    /// # Errors
    /// The kernel's.
    pub fn check_result(
        self,
        result: &CniResult,
        socket: &Netlink,
        index: u32,
    ) -> Result<Vec<Difference>, Layer3Error> {
        self.without_routes_of_others(result, socket)?.check(socket, index)
    }

    /// Without the routes that lead through other interfaces of the container: later plugins of the chain have added those
    /// to the result, with interfaces of their own. `self` is of `result`.
    fn without_routes_of_others(self, result: &CniResult, socket: &Netlink) -> Result<Self, NetError> {
        let mut of_others: Vec<Route> = Vec::new();
        for other in &result.interfaces {
            if other.sandbox.is_empty() || other.name == self.ifname.as_str() {
                continue;
            }
            let Some(link) = socket.link_by_name(&other.name)? else { continue };
            for family in Family::ALL {
                of_others.extend(socket.routes(&RouteFilter { family, device: Some(link.index), table: None })?);
            }
        }
        let is_of_others = |route: &cni_plugin::Route| {
            of_others.iter().any(|found| {
                let wanted = kernel_route(route, found.device);
                // Its maker may have filled in a next hop.
                Route { gateway: wanted.gateway.or(found.gateway), ..wanted }.is_met_by(found)
            })
        };
        let own = result.routes.iter().zip(self.routes).filter(|(reported, _)| !is_of_others(reported));
        Ok(Self { routes: own.map(|(_, route)| route).collect(), ..self })
    }

    /// Compares every address and every route, in each routing table. Other addresses and routes of the interface are ignored.
    pub fn check(&self, socket: &Netlink, index: u32) -> Result<Vec<Difference>, Layer3Error> {
        let present = socket.addresses(index)?;
        let networks: HashSet<IpNetwork> = present.iter().map(|found| found.network).collect();
        let missing = self.addresses.iter().filter(|wanted| !networks.contains(wanted));
        let mut differences: Vec<Difference> =
            missing.map(|wanted| self.address_difference(*wanted, &present)).collect();
        let wanted = self.kernel_routes(index);
        for family in Family::ALL {
            let wanted: Vec<_> = wanted.iter().filter(|route| Family::of(route.dst.ip()) == family).collect();
            if wanted.is_empty() {
                continue;
            }
            let present = Present::of(socket.routes(&RouteFilter { family, device: Some(index), table: None })?);
            let missing = wanted.into_iter().filter_map(|route| Some((route, self.route_difference(route, &present)?)));
            let missing: Vec<_> = missing.collect();
            if !missing.is_empty() {
                let tables = socket.tables_of(index, family, &self.addresses)?;
                let was_moved = |wanted: &Route| tables.iter().any(|table| present.has_in(*table, wanted));
                let lost = missing.into_iter().filter(|(wanted, _)| !was_moved(wanted));
                differences.extend(lost.map(|(_, difference)| difference));
            }
        }
        Ok(differences)
    }

    fn address_difference(&self, wanted: IpNetwork, present: &[Address]) -> Difference {
        let same_family =
            present.iter().filter(|found| same_family(found.network.ip(), wanted.ip()) && !found.link_local);
        let found: Vec<String> = same_family.map(|found| found.network.to_string()).collect();
        let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
        Difference::new(format!("address of {}", self.ifname), wanted, found)
    }

    fn route_difference(&self, wanted: &Route, present: &Present) -> Option<Difference> {
        // `onlink` only makes the kernel accept the next hop; the Go plugins do without it.
        let wanted = &Route { onlink: false, ..wanted.clone() };
        if present.find(wanted).is_some() {
            return None;
        }
        // Reporting the properties that differ says more than that the route is missing.
        let destination = Route { mtu: None, advmss: None, source: None, scope: None, ..wanted.clone() };
        let thing = format!("route {wanted} dev {}", self.ifname);
        match present.find(&destination) {
            Some(found) => Some(Difference::new(thing, properties(wanted, wanted), properties(found, wanted))),
            None => Some(Difference::missing(thing)),
        }
    }
}

/// The routes of a link, by destination: each question is answered in the time that the destination's own routes take.
struct Present(HashMap<IpNetwork, Vec<Route>>);

impl Present {
    fn of(routes: Vec<Route>) -> Self {
        let mut by_destination: HashMap<IpNetwork, Vec<Route>> = HashMap::new();
        for route in routes {
            by_destination.entry(route.dst).or_default().push(route);
        }
        Self(by_destination)
    }

    fn find(&self, wanted: &Route) -> Option<&Route> {
        self.0.get(&wanted.dst)?.iter().find(|found| wanted.is_met_by(found))
    }

    /// True if later plugins have moved the route of the main table to this one, which the interface's packets are routed by:
    /// `sbr` and `vrf` do so, and don't report it in the result.
    fn has_in(&self, table: u32, wanted: &Route) -> bool {
        let moved = Route { table: Some(table), onlink: false, ..wanted.clone() };
        wanted.is_in_main() && self.find(&moved).is_some()
    }
}

/// What `wanted` states beside its destination and next hop, as `route` has it.
fn properties(route: &Route, wanted: &Route) -> String {
    fn text<T: ToString>(name: &str, wanted: bool, value: Option<T>) -> Option<String> {
        wanted.then(|| format!("{name} {}", value.map_or_else(|| "unset".to_owned(), |value| value.to_string())))
    }
    let parts = [
        text("mtu", wanted.mtu.is_some(), route.mtu),
        text("advmss", wanted.advmss.is_some(), route.advmss),
        text("src", wanted.source.is_some(), route.source),
        text("scope", wanted.scope.is_some(), route.scope),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
