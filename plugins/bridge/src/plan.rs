//! The plan: all that should exist, as data, computed without access to the kernel. Every verb works from it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni_attach::gateway::{self, GatewayError};
use cni_attach::{Layer3, Layer3Error};
use cni_netfilter::Masquerade;
use cni_plugin::addr::{default_dst, same_family};
use cni_plugin::{CniResult, Dns, IfName, Interface, IpConfig, Owner, Route};
use ipnetwork::IpNetwork;

use crate::settings::Settings;

/// Where the container's interface stands in the result: after the bridge and the host's end.
pub const CONTAINER_INDEX: i64 = 2;

/// The address plan of an attachment: what IPAM said, completed by what the configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressPlan {
    /// The container's addresses, each with its gateway.
    pub ips: Vec<IpConfig>,
    /// The container's routes.
    pub routes: Vec<Route>,
    /// The bridge's own addresses.
    pub gateways: Vec<Gateway>,
    /// Masquerading, one entry an address.
    pub masquerade: Vec<Masquerade>,
}

/// An address that the bridge has as the containers' gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateway {
    /// The address, with the prefix length of the containers'.
    pub address: IpNetwork,
    /// The containers' subnet, which has the gateway's address in it or not. If not, it needs a route to the bridge.
    pub subnet: IpNetwork,
}

impl Gateway {
    /// The gateway of a container that has `address`.
    pub fn of(address: IpNetwork, gateway: IpAddr) -> Option<Self> {
        let subnet = IpNetwork::new(address.network(), address.prefix()).ok()?;
        Some(Self { address: IpNetwork::new(gateway, address.prefix()).ok()?, subnet })
    }

    /// True if the kernel makes no route to the containers' subnet for the gateway's address.
    pub fn is_outside(&self) -> bool {
        !self.subnet.contains(self.address.ip())
    }

    /// True if the kernel must not make a route to the subnet of the gateway's address and the containers' prefix length: it is
    /// not the containers' subnet.
    pub fn needs_no_prefix_route(&self) -> bool {
        self.is_outside() && !self.is_link_local()
    }

    /// True if the address is valid on the link only, as fe80::1: the kernel has a route to it on each link.
    pub fn is_link_local(&self) -> bool {
        is_link_local(self.address)
    }
}

fn is_link_local(address: IpNetwork) -> bool {
    matches!(address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// Why the bridge can't be the gateway that IPAM's answer names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The node can't have the gateway's address.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// The route to it would be this container's, on a bridge that stays.
    #[error(
        "gateway {gateway} is outside of {address}, which is a single address: give the container the prefix length of the \
         bridge's subnet, or use the plugin ptp"
    )]
    SingleAddress {
        /// The gateway.
        gateway: IpAddr,
        /// The container's address.
        address: IpNetwork,
    },
}

impl AddressPlan {
    /// Refuses gateways with which the container would reach no host, before any of them is an address of the bridge.
    pub fn refuse_dead_ends(&self) -> Result<(), PlanError> {
        if self.gateways.is_empty() {
            return Ok(());
        }
        gateway::refuse_unusable(&self.ips)?;
        let is_single = |gateway: &&Gateway| gateway.subnet == IpNetwork::from(gateway.subnet.ip());
        match self.gateways.iter().find(|gateway| gateway.is_outside() && is_single(gateway)) {
            Some(Gateway { address, subnet }) => {
                Err(PlanError::SingleAddress { gateway: address.ip(), address: *subnet })
            }
            None => Ok(()),
        }
    }

    /// The gateways that the container needs a route of its own to.
    fn on_link(&self) -> Vec<IpAddr> {
        let far = self.gateways.iter().filter(|gateway| gateway.is_outside() && !gateway.is_link_local());
        far.map(|gateway| gateway.address.ip()).collect()
    }

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
        Self { gateways: gateways(settings, &ips), masquerade: settings.masquerade.wanted(owner, &ips), ips, routes }
    }

    /// The result, with the links as they were made: the bridge, the host's end, the container's, and others.
    pub fn result(&self, interfaces: Vec<Interface>, dns: Dns) -> CniResult {
        CniResult { interfaces, ips: self.ips.clone(), routes: self.routes.clone(), dns }
    }

    /// The container's side of an attachment with this result.
    pub fn layer3(&self, settings: &Settings, result: &CniResult, ifname: &IfName) -> Result<Layer3, Layer3Error> {
        Ok(Layer3 { dad: settings.dad, on_link: self.on_link(), ..Layer3::of(result, ifname)? })
    }

    /// The plan that an earlier ADD carried out, from its result.
    pub fn from_result(settings: &Settings, owner: &Owner, result: &CniResult) -> Self {
        let ips = result.ips_of(&owner.ifname);
        let routes = result.routes.clone();
        Self { gateways: gateways(settings, &ips), masquerade: settings.masquerade.wanted(owner, &ips), ips, routes }
    }
}

/// IPv4 before IPv6, as the Go plugin sets them.
fn gateways(settings: &Settings, ips: &[IpConfig]) -> Vec<Gateway> {
    if !settings.gateway {
        return Vec::new();
    }
    let mut gateways: Vec<Gateway> = ips.iter().filter_map(|ip| Gateway::of(ip.address, ip.gateway?)).collect();
    gateways.sort_by_key(|gateway| gateway.address.is_ipv6());
    gateways.dedup();
    gateways
}

/// Adds one default route for each family, unless IPAM gave one in the main table (a route without a next hop uses the family's
/// gateway, and the kernel would refuse a second one). Default routes in other tables are for policy routing and don't count.
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
/// IPv6 (the Go plugin's rule). Of link-local IPv6 addresses a link has several, by nature, and each of them once.
pub fn conflicts(present: IpNetwork, wanted: IpNetwork) -> bool {
    if !same_family(present.ip(), wanted.ip()) || present == wanted {
        return false;
    }
    if is_link_local(present) && is_link_local(wanted) {
        return present.ip() == wanted.ip();
    }
    present.is_ipv4() || present.contains(wanted.ip()) || wanted.contains(present.ip())
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
        let gateways: Vec<String> = plan.gateways.iter().map(|gateway| gateway.address.to_string()).collect();
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
        assert!(!conflict("fe80::2/64", "fe80::1/64"));
        assert!(conflict("fe80::1/128", "fe80::1/64"));
    }

    #[test]
    fn gateways_outside_of_the_subnet_get_routes_and_dead_ends_are_refused() {
        let of = |address: &str, gateway: &str| {
            plan(json!({"isGateway": true}), json!({"ips": [{"address": address, "gateway": gateway}]}))
        };
        let outside = of("10.9.9.9/24", "10.8.8.1");
        assert!(outside.refuse_dead_ends().is_ok() && outside.gateways[0].is_outside());
        assert_eq!(outside.gateways[0].subnet.to_string(), "10.9.9.0/24");
        assert_eq!(outside.on_link(), ["10.8.8.1".parse::<IpAddr>().unwrap()]);
        let link_local = of("fd00::9/64", "fe80::1");
        assert!(link_local.refuse_dead_ends().is_ok() && link_local.gateways[0].is_outside());
        assert!(link_local.on_link().is_empty());
        assert!(of("10.9.9.9/24", "10.9.9.1").on_link().is_empty());
        for (address, gateway) in [
            ("10.9.9.9/24", "10.9.9.9"),
            ("10.9.9.9/24", "10.9.9.255"),
            ("10.9.9.9/32", "169.254.1.1"),
            ("fd00::9/128", "fe80::1"),
        ] {
            let refused = of(address, gateway).refuse_dead_ends().unwrap_err().to_string();
            assert!(refused.contains(gateway), "{refused}");
        }
    }
}
