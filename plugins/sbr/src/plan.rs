//! The plan: all values that should be set, as data, computed without access to the kernel.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cni_net::{Route, Rule};
use cni_plugin::{CniResult, Family, IfName, IpConfig};
use ipnetwork::IpNetwork;

use crate::settings::Settings;

/// Where the search for a free table begins, as in the Go plugin.
const FIRST_TABLE: u32 = 100;
/// `default`, `main` and `local` (`include/uapi/linux/rtnetlink.h`).
const KERNELS_TABLES: [u32; 3] = [253, 254, 255];
/// The protocol number of this plugin's rules, as `ip rule` shows it (`proto 67`): a number without registered owner.
pub const PROTOCOL: u8 = 67;

/// What there is before ADD.
#[derive(Debug, Clone, Default)]
pub struct Present {
    /// The interface's index.
    pub link: u32,
    /// The routes of the main table that lead through the interface.
    pub routes: Vec<Route>,
    /// Tables with routes, rules, or a VRF.
    pub tables: BTreeSet<u32>,
}

/// What an attachment should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// A rule for each address.
    pub rules: Vec<Rule>,
    /// The routes of the addresses' tables and, with source hints, of the main table, in an order that the kernel takes: a
    /// gateway needs a route to it.
    pub added: Vec<Route>,
    /// The routes that leave the main table, those through gateways first.
    pub removed: Vec<Route>,
}

impl Plan {
    /// The rules and routes of the interface's addresses.
    pub fn new(settings: &Settings, addresses: &[IpConfig], result: &CniResult, present: &Present) -> Self {
        let mut plan = Self::default();
        let mut free =
            (FIRST_TABLE..).filter(|table| !KERNELS_TABLES.contains(table) && !present.tables.contains(table));
        for address in addresses {
            let Some(table) = settings.table.or_else(|| free.next()) else { break };
            plan.rules.push(rule(address, table));
            if settings.table.is_none() {
                plan.added.extend(routes_of(address, table, gateway(settings, address, addresses, result), present));
            }
        }
        if settings.table.is_none() {
            plan.leave_main(settings, addresses, present);
        }
        plan
    }

    fn leave_main(&mut self, settings: &Settings, addresses: &[IpConfig], present: &Present) {
        let hints = if settings.source_hints { hints(addresses, present.link) } else { Vec::new() };
        let stays = |route: &Route| is_link_local(route) || hints.iter().any(|hint| hint.is_met_by(route));
        self.removed = present.routes.iter().filter(|route| !stays(route)).cloned().collect();
        self.removed.sort_by_key(|route| route.gateway.is_none());
        let is_there = |hint: &Route| present.routes.iter().any(|route| hint.is_met_by(route));
        self.added.extend(hints.iter().filter(|hint| !is_there(hint)).cloned());
    }
}

/// The rule of an address: packets from it are routed by this table.
pub fn rule(address: &IpConfig, table: u32) -> Rule {
    Rule { protocol: PROTOCOL, ..Rule::new(single(address.address.ip()), table) }
}

/// The address as a network of one.
pub fn single(address: IpAddr) -> IpNetwork {
    IpNetwork::from(address)
}

/// The gateway of an address's default route: the configured one, else the address's own, else that of a default route of the
/// result, unless it is in another address's subnet.
pub fn gateway(settings: &Settings, address: &IpConfig, addresses: &[IpConfig], result: &CniResult) -> Option<IpAddr> {
    let family = Family::of(address.address.ip());
    let is_default = |dst: IpNetwork| dst.prefix() == 0 && Family::of(dst.ip()) == family;
    let is_others = |gateway: &IpAddr| addresses.iter().any(|other| other.address.contains(*gateway));
    let is_its = |gateway: &IpAddr| address.address.contains(*gateway) || !is_others(gateway);
    let routed = result.routes.iter().filter(|route| is_default(route.dst)).filter_map(|route| route.gw).find(is_its);
    settings.gateway(family).or(address.gateway).or(routed)
}

/// The routes to the subnets of the addresses, with the address to send from.
pub fn hints(addresses: &[IpConfig], link: u32) -> Vec<Route> {
    let mut hints: Vec<Route> = Vec::new();
    for address in addresses.iter().map(|ip| ip.address) {
        let Ok(subnet) = IpNetwork::new(address.network(), address.prefix()) else { continue };
        // Of two addresses of one subnet the first one counts.
        if hints.iter().all(|hint| hint.dst != subnet) {
            hints.push(Route { source: Some(address.ip()), ..Route::new(subnet, None, link) });
        }
    }
    hints
}

/// The routes of an address's table: those of the main table that belong to it or to no address, and the default route.
fn routes_of(address: &IpConfig, table: u32, gateway: Option<IpAddr>, present: &Present) -> Vec<Route> {
    let network = address.address;
    let is_its = |ip: Option<IpAddr>| ip.is_some_and(|ip| network.contains(ip));
    let family = Family::of(network.ip());
    let copied = present.routes.iter().filter(|route| {
        let same_family = Family::of(route.dst.ip()) == family;
        // Another gateway was asked for.
        let is_default_elsewhere = route.dst.prefix() == 0 && gateway.is_some() && route.gateway != gateway;
        let for_it = is_its(route.source) || is_its(route.gateway) || route.source.or(route.gateway).is_none();
        let is_chosen = route.dst.prefix() == 0 && gateway.is_some() && route.gateway == gateway;
        same_family && !is_default_elsewhere && (for_it || is_chosen)
    });
    let mut routes: Vec<Route> = copied.map(|route| Route { table: Some(table), ..route.clone() }).collect();
    routes.sort_by_key(|route| route.gateway.is_some());
    if let Some(gateway) = gateway.filter(|_| routes.iter().all(|route| route.dst.prefix() != 0)) {
        let leads_to_it = |route: &Route| route.gateway.is_none() && route.dst.contains(gateway);
        let onlink = !network.contains(gateway) && !routes.iter().any(leads_to_it);
        let default = cni_plugin::addr::default_dst(gateway);
        routes.push(Route { table: Some(table), onlink, ..Route::new(default, Some(gateway), present.link) });
    }
    routes
}

/// Routes to fe80::/64 stay: without them no neighbour would be found.
fn is_link_local(route: &Route) -> bool {
    matches!(route.dst.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// The addresses of the interface. Of a result that has none at all nothing can be made; one that has others' only, as the Go
/// plugin takes it too, leaves nothing to do.
pub fn addresses(result: &CniResult, ifname: &IfName) -> Result<Vec<IpConfig>, cni_plugin::CniError> {
    if result.ips.is_empty() {
        let message = format!(
            "No IP addresses supplied on interface: {ifname}: prevResult has none, and routes by source need one"
        );
        return Err(cni_plugin::CniError::plugin(message));
    }
    Ok(result.ips_of(ifname))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(address: &str, gateway: Option<&str>) -> IpConfig {
        let gateway = gateway.map(|gateway| gateway.parse().unwrap());
        IpConfig { interface: None, address: address.parse().unwrap(), gateway }
    }

    /// A route of the main table, as the kernel lists it.
    fn main(dst: &str, gateway: Option<&str>, source: Option<&str>) -> Route {
        Route {
            source: source.map(|source| source.parse().unwrap()),
            table: Some(254),
            ..Route::new(dst.parse().unwrap(), gateway.map(|gateway| gateway.parse().unwrap()), 7)
        }
    }

    fn text(route: &Route) -> String {
        let gateway = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        let source = route.source.map(|source| format!(" src {source}")).unwrap_or_default();
        let onlink = if route.onlink { " onlink" } else { "" };
        format!("{}{gateway}{source}{onlink} table {}", route.dst, route.table.unwrap_or(254))
    }

    fn plan(
        settings: &Settings,
        addresses: &[IpConfig],
        routes: &[cni_plugin::Route],
        present: &Present,
    ) -> Vec<String> {
        let result = CniResult { routes: routes.to_vec(), ..CniResult::default() };
        let plan = Plan::new(settings, addresses, &result, present);
        let rules = plan.rules.iter().map(ToString::to_string);
        let added = plan.added.iter().map(|route| format!("+ {}", text(route)));
        let removed = plan.removed.iter().map(|route| format!("- {}", text(route)));
        rules.chain(added).chain(removed).collect()
    }

    fn present(tables: &[u32]) -> Present {
        let routes = vec![
            main("0.0.0.0/0", Some("10.1.0.1"), None),
            main("10.1.0.0/24", None, Some("10.1.0.5")),
            main("10.2.0.0/24", None, Some("10.2.0.5")),
            main("fd00::/64", None, None),
            main("fe80::/64", None, None),
        ];
        Present { link: 7, routes, tables: tables.iter().copied().collect() }
    }

    #[test]
    fn each_address_has_its_own_routes() {
        let addresses =
            [ip("10.1.0.5/24", Some("10.1.0.1")), ip("10.2.0.5/24", None), ip("fd00::5/64", Some("fd00::1"))];
        assert_eq!(
            plan(&Settings::default(), &addresses, &[], &present(&[101, 254, 255])),
            [
                "from 10.1.0.5 lookup 100",
                "from 10.2.0.5 lookup 102",
                "from fd00::5 lookup 103",
                "+ 10.1.0.0/24 src 10.1.0.5 table 100",
                "+ 0.0.0.0/0 via 10.1.0.1 table 100",
                "+ 10.2.0.0/24 src 10.2.0.5 table 102",
                "+ fd00::/64 table 103",
                "+ fe80::/64 table 103",
                "+ ::/0 via fd00::1 table 103",
                "- 0.0.0.0/0 via 10.1.0.1 table 254",
                "- 10.1.0.0/24 src 10.1.0.5 table 254",
                "- 10.2.0.0/24 src 10.2.0.5 table 254",
                "- fd00::/64 table 254",
            ]
        );
    }

    #[test]
    fn the_default_route_comes_from_the_configuration_the_address_or_the_result() {
        let addresses = [ip("10.2.0.5/24", None)];
        let routed = [cni_plugin::Route::new("0.0.0.0/0".parse().unwrap(), Some("10.2.0.9".parse().unwrap()))];
        let default = |settings: &Settings, addresses: &[IpConfig]| {
            let planned = plan(settings, addresses, &routed, &present(&[]));
            planned.into_iter().filter(|line| line.starts_with("+ 0.0.0.0/0")).collect::<Vec<_>>()
        };
        assert_eq!(default(&Settings::default(), &addresses), ["+ 0.0.0.0/0 via 10.2.0.9 table 100"]);
        let own = [ip("10.2.0.5/24", Some("10.2.0.1"))];
        assert_eq!(default(&Settings::default(), &own), ["+ 0.0.0.0/0 via 10.2.0.1 table 100"]);
        let settings = Settings { gateways: vec!["192.0.2.1".parse().unwrap()], ..Settings::default() };
        assert_eq!(default(&settings, &own), ["+ 0.0.0.0/0 via 192.0.2.1 onlink table 100"]);
    }

    #[test]
    fn a_configured_table_has_its_routes_already() {
        let settings = Settings { table: Some(300), ..Settings::default() };
        let addresses = [ip("10.1.0.5/24", Some("10.1.0.1")), ip("10.2.0.5/24", None)];
        let rules = ["from 10.1.0.5 lookup 300", "from 10.2.0.5 lookup 300"];
        assert_eq!(plan(&settings, &addresses, &[], &present(&[300])), rules);
    }

    #[test]
    fn source_hints_keep_the_subnets_in_the_main_table() {
        let settings = Settings { source_hints: true, ..Settings::default() };
        let addresses = [ip("10.1.0.5/24", None), ip("fd00::5/64", None)];
        let planned = plan(&settings, &addresses, &[], &present(&[]));
        let in_main: Vec<&String> = planned.iter().filter(|line| line.ends_with("table 254")).collect();
        assert_eq!(
            in_main,
            [
                "+ fd00::/64 src fd00::5 table 254",
                "- 0.0.0.0/0 via 10.1.0.1 table 254",
                "- 10.2.0.0/24 src 10.2.0.5 table 254",
                "- fd00::/64 table 254",
            ]
        );
    }
}
