//! The addresses and routes of a container's interface, as data: made by ADD, compared by CHECK, the same for every
//! plugin that makes an interface.

mod check;
mod point_to_point;
mod prepare;
mod print;

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use cni_net::{AddressOptions, NetError, NetNsError, Netlink, Route, SysctlError};
use cni_plugin::addr::same_family;
use cni_plugin::{CniResult, IfName, IpConfig, Undo};
use ipnetwork::IpNetwork;

use crate::sides::ContainerSide;
use point_to_point::Hops;

pub use point_to_point::PointToPoint;

/// From this scope on a route has no next hop (`RT_SCOPE_LINK`).
const SCOPE_LINK: u8 = 253;

/// How long duplicate address detection may take, as for the Go plugins (`pkg/ip/addr_linux.go`, `SettleAddresses`).
const DAD_LIMIT: Duration = Duration::from_secs(10);

/// Why an interface could not be configured.
#[derive(Debug, thiserror::Error)]
pub enum Layer3Error {
    /// The kernel refused.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The namespace could not be entered.
    #[error(transparent)]
    NetNs(#[from] NetNsError),
    /// A setting could not be written.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// Duplicate address detection.
    #[error(
        "address {address} of {ifname} is not usable: duplicate address detection found it on another host, or \
         did not finish"
    )]
    Duplicate {
        /// The address.
        address: IpNetwork,
        /// The interface.
        ifname: IfName,
    },
    /// An IPv4 destination that isn't a network's address, which the kernel refuses.
    #[error("route {dst} has host bits set, which IPv4 does not allow: write {network}")]
    HostBits {
        /// As configured.
        dst: IpNetwork,
        /// Without the host bits.
        network: IpNetwork,
    },
}

/// What an interface should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer3 {
    /// The interface in the container.
    pub ifname: IfName,
    /// Its addresses.
    pub addresses: Vec<IpNetwork>,
    /// The routes through it; the next hop is filled in.
    pub routes: Vec<cni_plugin::Route>,
    /// Duplicate address detection (RFC 4862) for its IPv6 addresses. Without it they can be used at once.
    pub dad: bool,
    /// Gateways outside of every address's subnet that are on the link all the same: each gets a route of its own, without which
    /// the kernel takes it for no next hop.
    pub on_link: Vec<IpAddr>,
    /// The gateways that all of an address's subnet is behind, if only the node is on the link: then the
    /// subnet is routed through its gateway instead of being on the link.
    pub point_to_point: Vec<PointToPoint>,
}

impl Layer3 {
    /// An interface without addresses and routes.
    pub fn new(ifname: &IfName) -> Self {
        Self {
            ifname: ifname.clone(),
            addresses: Vec::new(),
            routes: Vec::new(),
            dad: false,
            on_link: Vec::new(),
            point_to_point: Vec::new(),
        }
    }

    /// What the result of an ADD says about the container's interface `ifname`: its addresses, and every route with its next
    /// hop, which is the gateway of the first address of the family where the route has none and its scope lets it have one.
    ///
    /// # Errors
    /// [`Layer3Error::HostBits`].
    pub fn of(result: &CniResult, ifname: &IfName) -> Result<Self, Layer3Error> {
        let ips = result.ips_of(ifname);
        let routes = result.routes.iter().map(|route| with_next_hop(route, &ips)).collect::<Result<_, _>>()?;
        let addresses = ips.iter().map(|ip| ip.address).collect();
        Ok(Self { addresses, routes, ..Self::new(ifname) })
    }

    /// Gives the container's interface with this index its addresses, sets it up and adds the routes.
    /// `when_up` is called once it is up, and waits until other hosts on the link can receive from it. With duplicate address
    /// detection, which asks them, the addresses come after that, and this waits for its end, a second or two.
    ///
    /// Not idempotent. What deleting the interface does not take along is pushed to `undo`.
    pub fn apply(
        &self,
        container: &ContainerSide,
        index: u32,
        when_up: impl FnOnce() -> Result<(), NetError>,
        undo: &mut Undo,
    ) -> Result<(), Layer3Error> {
        let socket = &container.netlink;
        self.prepare(&container.namespace, undo)?;
        if !self.dad {
            self.add_addresses(socket, index)?;
        }
        container.set_up(index)?;
        when_up()?;
        if self.dad {
            self.add_addresses(socket, index)?;
        }
        if self.dad && self.has_ipv6() {
            self.settle(socket, index)?;
        }
        self.add_routes(socket, index)?;
        Ok(socket.wait_for_local_routes(index, &self.addresses)?)
    }

    fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(IpNetwork::is_ipv6)
    }

    fn settle(&self, socket: &Netlink, index: u32) -> Result<(), Layer3Error> {
        let found = socket.settle_addresses(index, DAD_LIMIT)?;
        match found.iter().find(|found| found.dad_failed || found.tentative && !found.link_local) {
            Some(failed) => Err(Layer3Error::Duplicate { address: failed.network, ifname: self.ifname.clone() }),
            None => Ok(()),
        }
    }

    /// Gives an interface of the node, which is up, its addresses and routes. They go when the interface does.
    pub fn apply_to_host(&self, socket: &Netlink, index: u32) -> Result<(), Layer3Error> {
        self.add_addresses(socket, index)?;
        self.add_routes(socket, index)?;
        Ok(socket.wait_for_local_routes(index, &self.addresses)?)
    }

    fn add_addresses(&self, socket: &Netlink, index: u32) -> Result<(), Layer3Error> {
        let options = self.address_options();
        for address in &self.addresses {
            socket.add_address(index, *address, &options)?;
        }
        Ok(())
    }

    fn address_options(&self) -> AddressOptions {
        // On a point-to-point link the routes to the subnet are ours, and the kernel's would come first.
        AddressOptions { no_dad: !self.dad, no_prefix_route: !self.point_to_point.is_empty() }
    }

    fn add_routes(&self, socket: &Netlink, index: u32) -> Result<(), Layer3Error> {
        for route in self.kernel_routes(index) {
            socket.add_route(&route)?;
        }
        Ok(())
    }

    /// All routes, in an order in which each one's next hop can be reached when it is added. Of those with the same
    /// destination, next hop, table and metric the first one counts, as for the Go plugins (`pkg/ipam/ipam_linux.go`,
    /// `ConfigureIface`): the kernel takes only one.
    fn kernel_routes(&self, index: u32) -> Vec<Route> {
        let hops = Hops::of(&self.point_to_point);
        let mut routes = hops.routes(index);
        routes.extend(self.on_link.iter().map(|gateway| Route::new(IpNetwork::from(*gateway), None, index)));
        routes.extend(self.routes.iter().map(|route| {
            let onlink = route.gw.is_some_and(|gateway| hops.hides(gateway));
            Route { onlink, ..kernel_route(route, index) }
        }));
        let mut seen = HashSet::new();
        routes.retain(|route| seen.insert((route.dst, route.gateway, route.table, route.priority)));
        routes
    }
}

fn with_next_hop(route: &cni_plugin::Route, ips: &[IpConfig]) -> Result<cni_plugin::Route, Layer3Error> {
    let dst = route.kernel_dst();
    let network = IpNetwork::new(dst.network(), dst.prefix()).unwrap_or(dst);
    if network != dst {
        return Err(Layer3Error::HostBits { dst, network });
    }
    let of_family = |ip: &&IpConfig| ip.gateway.is_some() && same_family(ip.address.ip(), route.dst.ip());
    let inherits = route.gw.is_none() && route.scope.is_none_or(|scope| scope < SCOPE_LINK);
    let gateway: Option<IpAddr> =
        if inherits { ips.iter().find(of_family).and_then(|ip| ip.gateway) } else { route.gw };
    Ok(cni_plugin::Route { dst, gw: gateway, ..route.clone() })
}

fn kernel_route(route: &cni_plugin::Route, index: u32) -> Route {
    let nonzero = |number: u32| (number > 0).then_some(number);
    Route {
        priority: nonzero(route.priority),
        table: route.table.and_then(nonzero),
        scope: route.scope,
        mtu: nonzero(route.mtu),
        advmss: nonzero(route.advmss),
        ..Route::new(route.dst, route.gw, index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_plugin::{Interface, Route as ResultRoute};

    fn result(routes: Vec<ResultRoute>) -> CniResult {
        let interface = |name: &str| Interface { name: name.into(), ..Interface::default() };
        let ip = |address: &str, gateway: &str| IpConfig {
            interface: Some(1),
            address: address.parse().unwrap(),
            gateway: gateway.parse().ok(),
        };
        CniResult {
            interfaces: vec![interface("br0"), interface("eth0")],
            ips: vec![ip("10.0.0.5/24", ""), ip("10.1.0.5/24", "10.1.0.1"), ip("fd00::5/64", "fd00::1")],
            routes,
            ..CniResult::default()
        }
    }

    fn next_hop(route: ResultRoute) -> String {
        let layer3 = Layer3::of(&result(vec![route]), &"eth0".parse().unwrap()).unwrap();
        layer3.routes[0].gw.map_or_else(|| "none".to_owned(), |gw| gw.to_string())
    }

    #[test]
    fn a_route_without_next_hop_takes_the_first_gateway_of_its_family() {
        let route =
            |dst: &str, gw: Option<&str>| ResultRoute::new(dst.parse().unwrap(), gw.map(|gw| gw.parse().unwrap()));
        assert_eq!(next_hop(route("0.0.0.0/0", None)), "10.1.0.1");
        assert_eq!(next_hop(route("fd01::/64", None)), "fd00::1");
        assert_eq!(next_hop(route("10.9.0.0/16", Some("10.0.0.9"))), "10.0.0.9");
        assert_eq!(next_hop(ResultRoute { scope: Some(253), ..route("10.9.0.0/16", None) }), "none");
    }

    #[test]
    fn host_bits_are_refused() {
        let ifname: IfName = "eth0".parse().unwrap();
        let route = ResultRoute::new("10.9.0.1/16".parse().unwrap(), None);
        let error = Layer3::of(&result(vec![route]), &ifname).unwrap_err().to_string();
        assert!(error.contains("10.9.0.1/16") && error.contains("10.9.0.0/16"), "{error}");
    }

    #[test]
    fn the_host_bits_of_ipv6_routes_are_cleared_and_a_route_stands_once() {
        let ifname: IfName = "eth0".parse().unwrap();
        let route = |dst: &str| ResultRoute::new(dst.parse().unwrap(), None);
        let routes = ["1100:200::1/24", "10.9.0.0/16", "1100:200::/24", "10.9.0.0/16"].map(route);
        let layer3 = Layer3::of(&result(routes.into()), &ifname).unwrap();
        let kernel: Vec<String> = layer3.kernel_routes(2).iter().map(|route| route.dst.to_string()).collect();
        assert_eq!(kernel, ["1100:200::/24", "10.9.0.0/16"]);
    }
}
