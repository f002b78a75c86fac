//! What should exist, as data; computed without touching the kernel. Every verb is a reading of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni_net::Family;
use cni_netfilter::Masquerade;
use cni_plugin::addr::{default_dst, same_family};
use cni_plugin::{CniResult, Interface, IpConfig, Owner, Route};
use ipnetwork::IpNetwork;

use crate::settings::Settings;

/// Where the container's interface stands in the result: after the bridge and the host's end.
pub const CONTAINER_INDEX: i64 = 2;

/// The address plan of an attachment: what IPAM said, completed by what the configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressPlan {
    /// The container's addresses and the routes' next hops, in result form.
    pub ips: Vec<IpConfig>,
    /// The container's routes.
    pub routes: Vec<Route>,
    /// The bridge's own addresses.
    pub gateways: Vec<IpNetwork>,
    /// Masquerading, one entry an address.
    pub masquerade: Vec<Masquerade>,
}

impl AddressPlan {
    /// Completes IPAM's answer: gateways where the bridge is one, default routes where they are wanted.
    pub fn new(settings: &Settings, owner: &Owner, ipam: &CniResult) -> Self {
        let mut ips = ipam.ips.clone();
        for ip in &mut ips {
            ip.interface = Some(CONTAINER_INDEX);
            if settings.gateway && ip.gateway.is_none() {
                ip.gateway = Some(first_address(ip.address));
            }
        }
        let mut routes = ipam.routes.clone();
        if settings.default_gateway {
            add_default_routes(&mut routes, &ips);
        }
        Self { gateways: gateways(settings, &ips), masquerade: masquerade(settings, owner, &ips), ips, routes }
    }

    /// The plan that an earlier ADD carried out, from the result it told.
    pub fn from_result(settings: &Settings, owner: &Owner, result: &CniResult) -> Self {
        let ips = result.ips_of(&owner.ifname);
        let routes = result.routes.clone();
        Self { gateways: gateways(settings, &ips), masquerade: masquerade(settings, owner, &ips), ips, routes }
    }
}

/// IPv4 before IPv6, as the Go plugin sets them.
fn gateways(settings: &Settings, ips: &[IpConfig]) -> Vec<IpNetwork> {
    if !settings.gateway {
        return Vec::new();
    }
    let on_bridge = |ip: &IpConfig| IpNetwork::new(ip.gateway?, ip.address.prefix()).ok();
    let mut gateways: Vec<IpNetwork> = ips.iter().filter_map(on_bridge).collect();
    gateways.sort_by_key(IpNetwork::is_ipv6);
    gateways.dedup();
    gateways
}

fn masquerade(settings: &Settings, owner: &Owner, ips: &[IpConfig]) -> Vec<Masquerade> {
    if !settings.masquerade {
        return Vec::new();
    }
    let mut wanted = Masquerade::of_each(owner, ips);
    wanted.retain(|wanted| settings.masquerade_families.contains(&Family::of(wanted.address)));
    wanted
}

/// Once a family, unless IPAM gave a default route of the main table already (with or without a next hop of its own:
/// without one the family's gateway is meant, and a second route would be refused by the kernel). One of another table
/// is for whom that table's rules are for.
fn add_default_routes(routes: &mut Vec<Route>, ips: &[IpConfig]) {
    for ip in ips {
        let Some(gateway) = ip.gateway else { continue };
        let dst = default_dst(gateway);
        if !routes.iter().any(|route| route.dst == dst && is_in_main(route)) {
            routes.push(Route::new(dst, Some(gateway)));
        }
    }
}

/// The kernel takes table 0 for the main one.
fn is_in_main(route: &Route) -> bool {
    matches!(route.table, None | Some(0 | 254))
}

/// The network's address plus one.
pub fn first_address(network: IpNetwork) -> IpAddr {
    match network.network() {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).wrapping_add(1)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).wrapping_add(1)).into(),
    }
}

/// True if an address that the bridge has stands in the way of a gateway: any other of IPv4, one of the same subnet in
/// IPv6 (the Go plugin's rule).
pub fn conflicts(present: IpNetwork, wanted: IpNetwork) -> bool {
    if !same_family(present.ip(), wanted.ip()) || present == wanted {
        return false;
    }
    present.is_ipv4() || present.contains(wanted.ip()) || wanted.contains(present.ip())
}

/// The result, with the links as they were made: the bridge, the host's end, the container's, and others.
pub fn result(interfaces: Vec<Interface>, plan: &AddressPlan, dns: cni_plugin::Dns) -> CniResult {
    CniResult { interfaces, ips: plan.ips.clone(), routes: plan.routes.clone(), dns }
}

/// The result that was told, with the addresses of this attachment only: later plugins may have added others.
pub fn with_addresses(told: &CniResult, plan: &AddressPlan) -> CniResult {
    CniResult { ips: plan.ips.clone(), ..told.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_plugin::{CniArgs, SpecVersion};
    use serde_json::json;

    fn owner() -> Owner {
        Owner { network: "net".parse().unwrap(), container_id: "c1".parse().unwrap(), ifname: "eth0".parse().unwrap() }
    }

    fn plan(config: serde_json::Value, ipam: serde_json::Value) -> AddressPlan {
        let config = cni_plugin::json::decode(config).unwrap();
        let settings = Settings::resolve(&config, &CniArgs::default(), SpecVersion::V1_0_0).unwrap();
        let ipam = CniResult::from_delegate(ipam, SpecVersion::V1_0_0).unwrap();
        AddressPlan::new(&settings, &owner(), &ipam)
    }

    #[test]
    fn a_gateway_without_address_gets_the_first_of_the_subnet() {
        let plan =
            plan(json!({"isGateway": true}), json!({"ips": [{"address": "10.1.2.9/24"}, {"address": "fd00::9/64"}]}));
        let gateways: Vec<String> = plan.gateways.iter().map(ToString::to_string).collect();
        assert_eq!(gateways, ["10.1.2.1/24", "fd00::1/64"]);
        assert!(plan.routes.is_empty());
        assert!(plan.ips.iter().all(|ip| ip.interface == Some(2)));
    }

    #[test]
    fn default_routes_once_a_family_and_not_beside_ipams() {
        let ips = json!([{"address": "10.1.2.9/24", "gateway": "10.1.2.1"}, {"address": "10.1.3.9/24", "gateway": "10.1.3.1"}, {"address": "fd00::9/64"}]);
        let both = plan(json!({"isDefaultGateway": true}), json!({"ips": ips}));
        let routes: Vec<String> = both.routes.iter().map(|r| format!("{} {}", r.dst, r.gw.unwrap())).collect();
        assert_eq!(routes, ["0.0.0.0/0 10.1.2.1", "::/0 fd00::1"]);
        let given = plan(json!({"isDefaultGateway": true}), json!({"ips": ips, "routes": [{"dst": "0.0.0.0/0"}]}));
        assert_eq!(given.routes.iter().filter(|route| route.dst.is_ipv4()).count(), 1);
        for (table, routes) in [(0, 1), (254, 1), (100, 2)] {
            let ipam = json!({"ips": ips, "routes": [{"dst": "0.0.0.0/0", "table": table}]});
            let given = plan(json!({"isDefaultGateway": true}), ipam);
            assert_eq!(given.routes.iter().filter(|route| route.dst.is_ipv4()).count(), routes, "table {table}");
        }
    }

    #[test]
    fn nothing_is_masqueraded_or_gateway_unasked() {
        let plan = plan(json!({}), json!({"ips": [{"address": "10.1.2.9/24", "gateway": "10.1.2.1"}]}));
        assert!(plan.gateways.is_empty() && plan.masquerade.is_empty());
    }

    #[test]
    fn ipv4_addresses_of_a_bridge_conflict_and_disjoint_ipv6_ones_do_not() {
        let conflict = |a: &str, b: &str| conflicts(a.parse().unwrap(), b.parse().unwrap());
        assert!(conflict("10.0.0.1/24", "10.0.1.1/24"));
        assert!(!conflict("10.0.0.1/24", "10.0.0.1/24"));
        assert!(!conflict("fd00:1::1/64", "fd00:2::1/64"));
        assert!(conflict("fd00:1::1/64", "fd00:1::2/64"));
        assert!(!conflict("fd00:1::1/64", "10.0.0.1/24"));
    }
}
