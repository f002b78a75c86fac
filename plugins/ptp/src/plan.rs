//! The plan: all that should exist, as data, computed without access to the kernel. Every verb works from it.

use std::collections::HashSet;
use std::net::IpAddr;

use cni_attach::gateway::{self, GatewayError};
use cni_attach::{Layer3, Layer3Error, PointToPoint};
use cni_netfilter::Masquerade;
use cni_plugin::{CniResult, IfName, IpConfig, Owner, Route};
use ipnetwork::IpNetwork;

use crate::settings::Settings;

/// Where the container's interface stands in the result: after the host's end.
pub const CONTAINER_INDEX: i64 = 1;
/// For this host only (`RT_SCOPE_HOST`): as the Go plugin has the route to the container.
const SCOPE_HOST: u8 = 254;

/// Why there is no plan for what IPAM says.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The node's address on the link is the gateway's.
    #[error(
        "address {0} has no gateway, and ptp gives the gateway's address to the node's end of the link: configure one \
         in \"ipam\""
    )]
    NoGateway(IpNetwork),
    /// The node can't have the gateway's address.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// The container's side.
    #[error(transparent)]
    Layer3(#[from] Layer3Error),
}

/// The addresses and routes of both ends of an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The container's end.
    pub container: Layer3,
    /// Masquerading, one entry an address.
    pub masquerade: Vec<Masquerade>,
}

impl Plan {
    /// The plan for the result of an ADD: the current one or an earlier one.
    pub fn of(settings: &Settings, owner: &Owner, result: &CniResult) -> Result<Self, PlanError> {
        let ips = result.ips_of(&owner.ifname);
        gateway::refuse_unusable(&ips)?;
        let point_to_point = ips.iter().map(hop).collect::<Result<_, _>>()?;
        let container = Layer3 { point_to_point, ..Layer3::of(result, &owner.ifname)? };
        Ok(Self { container, masquerade: settings.masquerade.wanted(owner, &ips) })
    }

    /// The node's end of the link, of this name: each gateway's address, alone, and a route to each of the container's.
    ///
    /// The gateway must answer at once, not after a second of duplicate address detection: it is the only one there.
    pub fn host(&self, name: &IfName) -> Layer3 {
        let mut seen = HashSet::new();
        let gateways = self.container.point_to_point.iter().map(|hop| hop.gateway);
        let addresses = gateways.filter(|gateway| seen.insert(*gateway)).map(IpNetwork::from).collect();
        let route = |address: IpAddr| {
            let scope = address.is_ipv4().then_some(SCOPE_HOST);
            Route { scope, ..Route::new(IpNetwork::from(address), None) }
        };
        Layer3 { addresses, routes: self.addresses().map(route).collect(), ..Layer3::new(name) }
    }

    /// The container's addresses, to each of which the node has a route. One that is in two subnets stands there twice.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.container.addresses.iter().map(IpNetwork::ip)
    }
}

fn hop(ip: &IpConfig) -> Result<PointToPoint, PlanError> {
    let gateway = ip.gateway.ok_or(PlanError::NoGateway(ip.address))?;
    Ok(PointToPoint { address: ip.address, gateway })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_attach::pair::{self, PairSpec};
    use cni_attach::print::{self, Place};
    use cni_attach::result::with_interfaces;
    use cni_attach::{MasqueradeSettings, forwarding};
    use cni_plugin::{Interface, MacAddr, SpecVersion};

    fn owner() -> Owner {
        Owner { network: "net".parse().unwrap(), container_id: "c1".parse().unwrap(), ifname: "eth0".parse().unwrap() }
    }

    fn plan(ips: &[(&str, &str)], masquerade: bool) -> Result<Plan, String> {
        let masquerade = MasqueradeSettings::resolve(masquerade, "").unwrap();
        let settings = Settings { ipam: "x".to_owned(), mtu: None, masquerade, dns: None };
        let ip = |(address, gateway): &(&str, &str)| IpConfig {
            interface: None,
            address: address.parse().unwrap(),
            gateway: gateway.parse().ok(),
        };
        let ipam = CniResult { ips: ips.iter().map(ip).collect(), ..CniResult::default() };
        let interfaces = ["veth0", "eth0"].map(|name| Interface::new(name, MacAddr([2; 6]), ""));
        let result = with_interfaces(interfaces.into(), CONTAINER_INDEX, ipam, None);
        Plan::of(&settings, &owner(), &result).map_err(|error| error.to_string())
    }

    #[test]
    fn the_examples_plans() {
        cni_testing::golden::dir(env!("CARGO_MANIFEST_DIR")).compare_examples("ptp", |example| {
            let settings = Settings::resolve(&cni_plugin::json::decode(example.config.clone()).unwrap()).unwrap();
            let ipam = cni_testing::ipam::result(&example.config);
            let ipam = CniResult::from_delegate(ipam, SpecVersion::V1_1_0).unwrap();
            let interfaces = ["veth0", "eth0"].map(|name| Interface::new(name, MacAddr([2; 6]), ""));
            let result = with_interfaces(interfaces.into(), CONTAINER_INDEX, ipam, None);
            let (owner, plan) = (owner(), Plan::of(&settings, &owner(), &result).unwrap());
            let name = pair::host_names(&owner).next().unwrap();
            let pair = PairSpec { mtu: settings.mtu, ..PairSpec::of(&owner) };
            let parts = [
                pair.commands(None),
                forwarding::commands(plan.addresses()),
                plan.host(&name).commands(Place::Node),
                plan.container.commands(Place::Container),
                plan.masquerade.iter().map(ToString::to_string).collect(),
            ];
            print::lines(&parts.concat())
        });
    }

    #[test]
    fn the_host_has_each_gateway_once_and_a_route_to_each_address() {
        let plan = plan(&[("10.0.0.5/24", "10.0.0.1"), ("10.0.0.6/24", "10.0.0.1"), ("fd00::5/64", "fd00::1")], true);
        let plan = plan.unwrap();
        let text = |network: &IpNetwork| network.to_string();
        let Layer3 { addresses, routes, .. } = plan.host(&"veth0".parse().unwrap());
        assert_eq!(addresses.iter().map(text).collect::<Vec<_>>(), ["10.0.0.1/32", "fd00::1/128"]);
        let dst: Vec<String> = routes.iter().map(|route| route.dst.to_string()).collect();
        assert_eq!(dst, ["10.0.0.5/32", "10.0.0.6/32", "fd00::5/128"]);
        assert!(routes.iter().all(|route| route.gw.is_none()));
        assert_eq!((routes[0].scope, routes[2].scope), (Some(254), None));
        assert_eq!(plan.masquerade.len(), 3);
    }

    #[test]
    fn nothing_is_masqueraded_unasked() {
        let plan = plan(&[("10.0.0.5/24", "10.0.0.1")], false).unwrap();
        assert!(plan.masquerade.is_empty());
    }

    #[test]
    fn an_address_needs_a_gateway_that_the_node_can_have() {
        for (gateway, named) in [("", "has no gateway"), ("10.0.0.5", "own address"), ("10.0.0.255", "broadcast")] {
            let refused = plan(&[("10.0.0.5/24", gateway)], false).unwrap_err();
            assert!(refused.contains("10.0.0.5") && refused.contains(named), "{refused}");
        }
        assert!(plan(&[("10.0.0.0/31", "10.0.0.1")], false).is_ok());
    }
}
