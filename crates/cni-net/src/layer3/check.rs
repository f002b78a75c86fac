//! What of an interface's addresses and routes isn't as [`Layer3`] says.

use std::collections::{HashMap, HashSet};

use cni_plugin::addr::same_family;
use cni_plugin::{CniResult, Difference};
use ipnetwork::IpNetwork;

use super::{Layer3, Layer3Error, kernel_route};
use crate::{Address, Family, NetError, Netlink, Route, RouteFilter};

impl Layer3 {
    /// Without the routes that lead through other interfaces of the container: later plugins of the chain have added those
    /// to the result, with interfaces of their own. `self` is of `told`.
    pub fn without_routes_of_others(self, told: &CniResult, socket: &Netlink) -> Result<Self, NetError> {
        let mut elsewhere: Vec<Route> = Vec::new();
        for other in &told.interfaces {
            if other.sandbox.is_empty() || other.name == self.ifname.as_str() {
                continue;
            }
            let Some(link) = socket.link_by_name(&other.name)? else { continue };
            for family in Family::ALL {
                elsewhere.extend(socket.routes(&RouteFilter { family, device: Some(link.index), table: None })?);
            }
        }
        let is_elsewhere = |route: &cni_plugin::Route| {
            elsewhere.iter().any(|found| {
                let wanted = kernel_route(route, found.device);
                // Its maker may have filled in a next hop.
                Route { gateway: wanted.gateway.or(found.gateway), ..wanted }.is_met_by(found)
            })
        };
        let own = told.routes.iter().zip(self.routes).filter(|(told, _)| !is_elsewhere(told));
        Ok(Self { routes: own.map(|(_, route)| route).collect(), ..self })
    }

    /// Compares: every address and every route, in whatever table it is. What is there beside them is nobody's concern.
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
        // How the kernel was made to take the next hop is not a property of the way: the Go plugins do it otherwise.
        let wanted = &Route { onlink: false, ..wanted.clone() };
        if present.find(wanted).is_some() {
            return None;
        }
        // The same way with other properties says more than that it is missing.
        let way = Route { mtu: None, advmss: None, source: None, scope: None, ..wanted.clone() };
        let thing = format!("route {} {}", shown(wanted), self.ifname);
        match present.find(&way) {
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
    /// `sbr` and `vrf` do so, and don't tell it in the result.
    fn has_in(&self, table: u32, wanted: &Route) -> bool {
        let moved = Route { table: Some(table), onlink: false, ..wanted.clone() };
        wanted.is_in_main() && self.find(&moved).is_some()
    }
}

/// The route in the words of `ip route`.
fn shown(route: &Route) -> String {
    let mut text = if route.dst.prefix() == 0 { "default".to_owned() } else { route.dst.to_string() };
    if let Some(gateway) = route.gateway {
        text.push_str(&format!(" via {gateway}"));
    }
    if let Some(table) = route.table {
        text.push_str(&format!(" table {table}"));
    }
    if let Some(priority) = route.priority {
        text.push_str(&format!(" metric {priority}"));
    }
    text.push_str(" dev");
    text
}

/// What `wanted` states beside its way, as `route` has it.
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
