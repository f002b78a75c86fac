//! One network namespace.

use std::cell::OnceCell;
use std::net::IpAddr;

use cni_net::{Address, Link, NetNs, Netlink, Route, RouteFilter, RouteKind, RouteLookup, RouteQuery};
use cni_plugin::Family;

use super::command;
use crate::ReachError;
use crate::rules::{Rules, Surroundings};

/// `RT_TABLE_MAIN`.
const MAIN: u32 = 254;

/// A namespace with its links and addresses; the rest is asked when it matters.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// For answers: `the node`, `container c1`.
    pub(crate) name: String,
    pub(crate) netns: NetNs,
    pub(crate) netlink: Netlink,
    pub(crate) links: Vec<Link>,
    /// With the link's index.
    pub(crate) addresses: Vec<(u32, Address)>,
    rules: OnceCell<Rules>,
}

impl Namespace {
    pub(crate) fn read(netns: NetNs, name: String) -> Result<Self, ReachError> {
        let netlink = Netlink::open_in(&netns)?;
        let links = netlink.links()?;
        let mut addresses = Vec::new();
        for link in &links {
            addresses.extend(netlink.addresses(link.index)?.into_iter().map(|address| (link.index, address)));
        }
        Ok(Self { name, netns, netlink, links, addresses, rules: OnceCell::new() })
    }

    pub(crate) fn is(&self, other: &Namespace) -> bool {
        self.netns.is_same(&other.netns)
    }

    pub(crate) fn rules(&self) -> &Rules {
        self.rules.get_or_init(|| Rules::read(&self.netns))
    }

    pub(crate) fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    pub(crate) fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The links that are no loopback.
    pub(crate) fn real_links(&self) -> impl Iterator<Item = &Link> {
        // Tunnels' fallback devices are in every namespace where their module is loaded.
        let is_fallback = |name: &str| {
            ["tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0"].contains(&name)
        };
        self.links.iter().filter(move |link| !link.loopback && !is_fallback(&link.name))
    }

    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|(_, known)| known.network.ip() == address)
    }

    pub(crate) fn has_on(&self, link: u32, address: IpAddr) -> bool {
        self.addresses.iter().any(|(index, known)| *index == link && known.network.ip() == address)
    }

    /// The first address of the family that others can use.
    pub(crate) fn address(&self, family: Family) -> Option<IpAddr> {
        let usable = self.addresses.iter().map(|(_, address)| address).filter(|address| !address.link_local);
        usable.map(|address| address.network.ip()).find(|ip| Family::of(*ip) == family && !ip.is_loopback())
    }

    pub(crate) fn address_on(&self, link: u32, family: Family) -> Option<IpAddr> {
        let of_link = self.addresses.iter().filter(|(index, address)| *index == link && !address.link_local);
        of_link.map(|(_, address)| address.network.ip()).find(|ip| Family::of(*ip) == family)
    }

    /// A value below `/proc/sys/net`; `None` if there is none.
    pub(crate) fn sysctl(&self, key: &str) -> Option<String> {
        command::read(&self.netns, &format!("/proc/sys/net/{key}")).ok().map(|value| value.trim().to_owned())
    }

    pub(crate) fn is_on(&self, key: &str) -> bool {
        self.sysctl(key).is_some_and(|value| value != "0")
    }

    /// The route for a packet; an error of the kernel is its word for "no".
    pub(crate) fn route(&self, query: &RouteQuery) -> Result<Option<RouteLookup>, i32> {
        self.netlink.route_for(query).map_err(|error| error.errno().unwrap_or_default())
    }

    pub(crate) fn default_route(&self, family: Family) -> Option<Route> {
        let filter = RouteFilter { family, device: None, table: Some(MAIN) };
        self.netlink.routes(&filter).ok()?.into_iter().find(|route| route.dst.prefix() == 0)
    }

    /// The MTU of the route to an address, if it is below the link's.
    pub(crate) fn route_mtu(&self, to: IpAddr, link: u32) -> Option<u32> {
        let filter = RouteFilter { family: Family::of(to), device: Some(link), table: Some(MAIN) };
        let routes = self.netlink.routes(&filter).ok()?;
        routes.into_iter().filter(|route| route.dst.contains(to)).max_by_key(|route| route.dst.prefix())?.mtu
    }
}

impl Surroundings for Namespace {
    fn is_local(&self, address: IpAddr) -> bool {
        let local = |lookup: RouteLookup| lookup.kind == RouteKind::Local;
        self.route(&RouteQuery::to(address)).is_ok_and(|found| found.is_some_and(local))
    }

    fn masquerade_address(&self, link: &str, to: IpAddr) -> Option<IpAddr> {
        let link = self.link_named(link)?.index;
        let query = RouteQuery { leave_by: Some(link), ..RouteQuery::to(to) };
        let source = self.route(&query).ok().flatten().and_then(|found| found.source);
        source.or_else(|| self.address_on(link, Family::of(to)))
    }
}
