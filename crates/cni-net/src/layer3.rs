//! The addresses and routes of a container's interface, as data: made by ADD, compared by CHECK, the same for every
//! plugin that makes an interface.

use std::net::IpAddr;

use cni_plugin::addr::same_family;
use cni_plugin::{CniResult, Difference, IfName, IpConfig};
use ipnetwork::IpNetwork;

use crate::sysctl::{self, SysctlError};
use crate::{Address, AddressOptions, Family, LinkChange, NetError, NetNs, NetNsError, Netlink, Route, RouteFilter};

/// The main routing table (`RT_TABLE_MAIN`).
const TABLE_MAIN: u32 = 254;
/// From this scope on a route has no next hop (`RT_SCOPE_LINK`).
const SCOPE_LINK: u8 = 253;

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
    /// An address that the result gives to somebody else.
    #[error("address {address} is for interface {index} of the result, which is {found}, and not for {ifname}")]
    Misplaced {
        /// The address.
        address: IpNetwork,
        /// The index that it names.
        index: i64,
        /// What is there.
        found: String,
        /// The interface to configure.
        ifname: IfName,
    },
    /// A destination that isn't a network's address.
    #[error("route {dst} has host bits set: {network} is meant?")]
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
}

impl Layer3 {
    /// What `result` says about `ifname`: its addresses, and every route with its next hop, which is the gateway of the
    /// first address of the family where the route has none and its scope lets it have one.
    pub fn of(result: &CniResult, ifname: &IfName) -> Result<Self, Layer3Error> {
        let mut ips: Vec<&IpConfig> = Vec::new();
        for ip in &result.ips {
            if is_for(result, ip, ifname)? {
                ips.push(ip);
            }
        }
        let routes = result.routes.iter().map(|route| with_next_hop(route, &ips)).collect::<Result<_, _>>()?;
        let addresses = ips.iter().map(|ip| ip.address).collect();
        Ok(Self { ifname: ifname.clone(), addresses, routes, dad: false })
    }

    /// Gives the interface its addresses, sets it up and adds the routes. `socket` and `namespace` are the container's.
    ///
    /// Not idempotent, and not taken back on failure: the interface is new, and deleting it takes everything with it.
    pub fn apply(&self, namespace: &NetNs, socket: &Netlink, index: u32) -> Result<(), Layer3Error> {
        namespace.run(|| self.write_sysctls())??;
        let options = AddressOptions { no_dad: !self.dad, ..AddressOptions::default() };
        for address in &self.addresses {
            socket.add_address(index, *address, &options)?;
        }
        socket.change_link(index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
        for route in &self.routes {
            socket.add_route(&kernel_route(route, index))?;
        }
        Ok(())
    }

    fn write_sysctls(&self) -> Result<(), SysctlError> {
        let name = self.ifname.as_str();
        // The kernel announces the addresses when the link comes up, so that an address that was somebody else's a
        // moment ago works at once.
        let _ = sysctl::write(&format!("net/ipv4/conf/{name}/arp_notify"), "1");
        // The addresses come from IPAM: nobody on the link shall add others (CVE-2020-10749), of whatever family.
        let _ = sysctl::write(&format!("net/ipv6/conf/{name}/accept_ra"), "0");
        if !self.addresses.iter().any(IpNetwork::is_ipv6) {
            return Ok(());
        }
        for name in ["lo", name] {
            let path = format!("net/ipv6/conf/{name}/disable_ipv6");
            // A kernel without IPv6 has no such file; adding the address will say so.
            if sysctl::read(&path).is_ok_and(|value| value.trim() != "0") {
                sysctl::write(&path, "0")?;
            }
        }
        sysctl::write(&format!("net/ipv6/conf/{name}/keep_addr_on_down"), "1")?;
        let _ = sysctl::write(&format!("net/ipv6/conf/{name}/ndisc_notify"), "1");
        let dad = if self.dad { "1" } else { "0" };
        let _ = sysctl::write(&format!("net/ipv6/conf/{name}/accept_dad"), dad);
        if self.dad {
            let _ = sysctl::write(&format!("net/ipv6/conf/{name}/enhanced_dad"), "1");
        }
        Ok(())
    }

    /// Compares: every address and every route, in whatever table it is. What is there beside them is nobody's concern.
    pub fn check(&self, socket: &Netlink, index: u32) -> Result<Vec<Difference>, Layer3Error> {
        let present = socket.addresses(index)?;
        let missing = self.addresses.iter().filter(|wanted| !present.iter().any(|found| found.network == **wanted));
        let mut differences: Vec<Difference> =
            missing.map(|wanted| self.address_difference(*wanted, &present)).collect();
        for family in [Family::V4, Family::V6] {
            let wanted: Vec<_> = self.routes.iter().filter(|route| Family::of(route.dst.ip()) == family).collect();
            if wanted.is_empty() {
                continue;
            }
            let present = socket.routes(&RouteFilter { family, device: Some(index), table: None })?;
            differences.extend(wanted.into_iter().filter_map(|route| self.route_difference(route, index, &present)));
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

    fn route_difference(&self, wanted: &cni_plugin::Route, index: u32, present: &[Route]) -> Option<Difference> {
        let wanted = kernel_route(wanted, index);
        let table = wanted.table.unwrap_or(TABLE_MAIN);
        let same_way = |found: &&Route| {
            found.dst == wanted.dst
                && found.table.unwrap_or(TABLE_MAIN) == table
                && found.gateway == wanted.gateway
                && wanted.priority.is_none_or(|priority| found.priority == Some(priority))
                // IPv6 has no scopes; the kernel says universe whatever was asked for.
                && (wanted.dst.is_ipv6() || wanted.scope.is_none() || wanted.scope == found.scope)
        };
        let thing = format!("route {} {}", shown(&wanted), self.ifname);
        let Some(found) = present.iter().find(same_way) else { return Some(Difference::missing(thing)) };
        let metrics = |route: &Route| format!("mtu {}, advmss {}", or_default(route.mtu), or_default(route.advmss));
        let differs =
            wanted.mtu.is_some() && wanted.mtu != found.mtu || wanted.advmss.is_some() && wanted.advmss != found.advmss;
        differs.then(|| Difference::new(thing, metrics(&wanted), metrics(found)))
    }
}

/// True if the address is for `ifname`; addresses without an index are for nobody in particular and are left alone.
fn is_for(result: &CniResult, ip: &IpConfig, ifname: &IfName) -> Result<bool, Layer3Error> {
    let Some(index) = ip.interface else { return Ok(false) };
    let interface = usize::try_from(index).ok().and_then(|index| result.interfaces.get(index));
    match interface {
        Some(found) if found.name == ifname.as_str() => Ok(true),
        other => Err(Layer3Error::Misplaced {
            address: ip.address,
            index,
            found: other.map_or_else(|| "not in its list".to_owned(), |found| found.name.clone()),
            ifname: ifname.clone(),
        }),
    }
}

fn with_next_hop(route: &cni_plugin::Route, ips: &[&IpConfig]) -> Result<cni_plugin::Route, Layer3Error> {
    let network = IpNetwork::new(route.dst.network(), route.dst.prefix()).unwrap_or(route.dst);
    if network != route.dst {
        return Err(Layer3Error::HostBits { dst: route.dst, network });
    }
    let of_family = |ip: &&&IpConfig| ip.gateway.is_some() && same_family(ip.address.ip(), route.dst.ip());
    let inherits = route.gw.is_none() && route.scope.is_none_or(|scope| scope < SCOPE_LINK);
    let gateway: Option<IpAddr> =
        if inherits { ips.iter().find(of_family).and_then(|ip| ip.gateway) } else { route.gw };
    Ok(cni_plugin::Route { gw: gateway, ..route.clone() })
}

fn kernel_route(route: &cni_plugin::Route, index: u32) -> Route {
    let nonzero = |number: u32| (number > 0).then_some(number);
    Route {
        priority: nonzero(route.priority),
        table: route.table,
        scope: route.scope,
        mtu: nonzero(route.mtu),
        advmss: nonzero(route.advmss),
        ..Route::new(route.dst, route.gw, index)
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

fn or_default(number: Option<u32>) -> String {
    number.map_or_else(|| "unset".to_owned(), |number| number.to_string())
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
    fn host_bits_and_foreign_addresses_are_refused() {
        let ifname: IfName = "eth0".parse().unwrap();
        let route = ResultRoute::new("10.9.0.1/16".parse().unwrap(), None);
        let error = Layer3::of(&result(vec![route]), &ifname).unwrap_err().to_string();
        assert!(error.contains("10.9.0.1/16") && error.contains("10.9.0.0/16"), "{error}");
        let error = Layer3::of(&result(vec![]), &"eth1".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("10.0.0.5/24") && error.contains("eth0"), "{error}");
    }
}
