//! What should exist, as data; computed without touching the kernel. Every verb is a reading of it.

use std::collections::HashSet;
use std::net::IpAddr;

use cni_net::{Family, Layer3, Layer3Error, Pair, PointToPoint};
use cni_netfilter::Masquerade;
use cni_plugin::addr::same_family;
use cni_plugin::{CniResult, Dns, IfName, Interface, IpConfig, Owner, Route};
use ipnetwork::IpNetwork;

use crate::settings::Settings;

/// Where the container's interface stands in the result: after the host's end.
const CONTAINER_INDEX: i64 = 1;
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
    /// Both ends would have the same address.
    #[error(
        "gateway {0} is the container's own address, and ptp gives the gateway's to the node's end of the link: configure \
         another one in \"ipam\""
    )]
    OwnGateway(IpAddr),
    /// No host can have it.
    #[error("gateway {gateway} is the broadcast address of {address}'s subnet: configure another one in \"ipam\"")]
    Broadcast {
        /// The gateway.
        gateway: IpAddr,
        /// The container's address.
        address: IpNetwork,
    },
    /// A gateway that can't be one.
    #[error(
        "gateway {gateway} of address {address} is of another address family: configure one of the same in \"ipam\""
    )]
    OtherFamily {
        /// The address.
        address: IpNetwork,
        /// What should lead out of its subnet.
        gateway: IpAddr,
    },
    /// The container's side.
    #[error(transparent)]
    Layer3(#[from] Layer3Error),
}

/// The addresses and routes of both ends of an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The container's end.
    pub layer3: Layer3,
    /// The addresses of the host's end: each gateway, alone.
    pub gateways: Vec<IpNetwork>,
    /// The container's addresses, each of which the node has a route to. One that is in two subnets stands there twice.
    pub addresses: Vec<IpAddr>,
    /// Masquerading, one entry an address.
    pub masquerade: Vec<Masquerade>,
}

impl Plan {
    /// What the result asks for: of an ADD that is at work, or of an earlier one.
    pub fn of(settings: &Settings, owner: &Owner, told: &CniResult) -> Result<Self, PlanError> {
        let ips = told.ips_of(&owner.ifname);
        let hops: Vec<PointToPoint> = ips.iter().map(hop).collect::<Result<_, _>>()?;
        let mut seen = HashSet::new();
        let gateways = hops.iter().map(|hop| hop.gateway).filter(|gateway| seen.insert(*gateway));
        let gateways = gateways.map(IpNetwork::from).collect();
        let masquerade = if settings.masquerade { Masquerade::of_each(owner, &ips) } else { Vec::new() };
        let addresses = ips.iter().map(|ip| ip.address.ip()).collect();
        // Later plugins of the chain may have added addresses of their own interfaces.
        let own = CniResult { ips, ..told.clone() };
        let layer3 = Layer3 { point_to_point: hops, ..Layer3::of(&own, &owner.ifname)? };
        Ok(Self { layer3, gateways, addresses, masquerade })
    }

    /// The node's end of the link, of this name: the gateways' addresses, and a route to each of the container's.
    ///
    /// The gateway must answer at once, not after a second of duplicate address detection: it is the only one there.
    pub fn host(&self, name: IfName) -> Layer3 {
        let route = |address: &IpAddr| {
            let scope = address.is_ipv4().then_some(SCOPE_HOST);
            Route { scope, ..Route::new(IpNetwork::from(*address), None) }
        };
        let routes = self.addresses.iter().map(route).collect();
        let (on_link, point_to_point) = (Vec::new(), Vec::new());
        Layer3 { ifname: name, addresses: self.gateways.clone(), routes, dad: false, on_link, point_to_point }
    }

    /// The families in which the node has to forward.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(|family| self.addresses.iter().any(|address| Family::of(*address) == *family))
    }
}

fn hop(ip: &IpConfig) -> Result<PointToPoint, PlanError> {
    let address = ip.address;
    let gateway = ip.gateway.ok_or(PlanError::NoGateway(address))?;
    if !same_family(address.ip(), gateway) {
        return Err(PlanError::OtherFamily { address, gateway });
    }
    if address.ip() == gateway {
        return Err(PlanError::OwnGateway(gateway));
    }
    // RFC 3021: /31 and /32 have none.
    if matches!(address, IpNetwork::V4(subnet) if subnet.prefix() <= 30 && IpAddr::from(subnet.broadcast()) == gateway)
    {
        return Err(PlanError::Broadcast { gateway, address });
    }
    Ok(PointToPoint { address, gateway })
}

/// The result: IPAM's, with the two ends of the pair and the MTU that is told of them.
pub fn result(
    (pair, mtu): (&Pair, u32),
    ifname: &IfName,
    sandbox: &str,
    ipam: CniResult,
    dns: Option<Dns>,
) -> CniResult {
    let placed = |ip: IpConfig| IpConfig { interface: Some(CONTAINER_INDEX), ..ip };
    CniResult {
        interfaces: vec![
            Interface::new(pair.host_name.as_str(), pair.host_mac, "").with_mtu(mtu),
            Interface::new(ifname.as_str(), pair.container_mac, sandbox).with_mtu(mtu),
        ],
        ips: ipam.ips.into_iter().map(placed).collect(),
        routes: ipam.routes,
        dns: dns.unwrap_or(ipam.dns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_plugin::MacAddr;

    fn owner() -> Owner {
        Owner { network: "net".parse().unwrap(), container_id: "c1".parse().unwrap(), ifname: "eth0".parse().unwrap() }
    }

    fn plan(ips: &[(&str, &str)], masquerade: bool) -> Result<Plan, String> {
        let settings = Settings { ipam: "x".to_owned(), mtu: None, masquerade, backend: None, dns: None };
        let ip = |(address, gateway): &(&str, &str)| IpConfig {
            interface: None,
            address: address.parse().unwrap(),
            gateway: gateway.parse().ok(),
        };
        let ipam = CniResult { ips: ips.iter().map(ip).collect(), ..CniResult::default() };
        let pair = Pair {
            host_name: "veth0".parse().unwrap(),
            host_index: 7,
            host_mac: MacAddr([2; 6]),
            container_index: 2,
            container_mac: MacAddr([4; 6]),
            mtu: 1500,
        };
        let told = result((&pair, 0), &owner().ifname, "/n", ipam, None);
        Plan::of(&settings, &owner(), &told).map_err(|error| error.to_string())
    }

    #[test]
    fn the_host_has_each_gateway_once_and_a_route_to_each_address() {
        let plan = plan(&[("10.0.0.5/24", "10.0.0.1"), ("10.0.0.6/24", "10.0.0.1"), ("fd00::5/64", "fd00::1")], true);
        let plan = plan.unwrap();
        let text = |network: &IpNetwork| network.to_string();
        assert_eq!(plan.gateways.iter().map(text).collect::<Vec<_>>(), ["10.0.0.1/32", "fd00::1/128"]);
        let routes = plan.host("veth0".parse().unwrap()).routes;
        let dst: Vec<String> = routes.iter().map(|route| route.dst.to_string()).collect();
        assert_eq!(dst, ["10.0.0.5/32", "10.0.0.6/32", "fd00::5/128"]);
        assert!(routes.iter().all(|route| route.gw.is_none()));
        assert_eq!((routes[0].scope, routes[2].scope), (Some(254), None));
        assert_eq!((plan.families().count(), plan.masquerade.len()), (2, 3));
    }

    #[test]
    fn nothing_is_masqueraded_unasked_and_only_the_families_in_use_are_forwarded() {
        let plan = plan(&[("10.0.0.5/24", "10.0.0.1")], false).unwrap();
        assert!(plan.masquerade.is_empty());
        assert_eq!(plan.families().collect::<Vec<_>>(), [Family::V4]);
    }

    #[test]
    fn an_address_needs_a_gateway_of_its_family() {
        let refused = plan(&[("10.0.0.5/24", "")], false).unwrap_err();
        assert!(refused.contains("10.0.0.5/24") && refused.contains("gateway"), "{refused}");
        let refused = plan(&[("10.0.0.5/24", "fd00::1")], false).unwrap_err();
        assert!(refused.contains("10.0.0.5/24") && refused.contains("fd00::1"), "{refused}");
    }
}
