//! A macvlan link of the node beside the containers' ones, through which node and containers reach each other: the kernel
//! hands no packet from a macvlan link to the link below it.
//!
//! A network has one on each node. It is made with the network's first attachment there and deleted with the last. Each
//! attachment has a route to each of its addresses through it, whose metric is a number that follows from the owner: so DEL
//! and GC find the routes by the owner alone, and the shim is needed as long as it has such a route.

use std::net::IpAddr;
use std::rc::Rc;

use cni_net::{
    AddressOptions, Link, LinkChange, LinkSpec, MacVlan, MacVlanMode, NetError, Netlink, Route, RouteFilter, sysctl,
};
use cni_plugin::{
    CniError, Difference, Family, IfName, IpConfig, Lock, NetworkName, Owner, Undo, UnusableIp, sha512_hex,
};
use ipnetwork::IpNetwork;
use serde::Deserialize;

use crate::layer3::Layer3;
use crate::mac;
use crate::parent::{MAIN, lower_index};
use crate::print::Place;

/// Owners' metrics are from here up to twice this: above those that people and the kernel choose.
const METRICS: u32 = 1 << 30;

/// The key `hostShim`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ShimConfig {
    /// The shim's own addresses; a prefix length may follow, and doesn't matter.
    pub addresses: Vec<String>,
}

/// Why there can be no shim.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The kernel refused.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Without an address the node can't be reached.
    #[error("hostShim.addresses: it is empty: give the node an address of its own in the network, such as 192.0.2.9")]
    NoAddress,
    /// It is none.
    #[error("hostShim.addresses: {0:?} is no IP address")]
    Malformed(String),
    /// No interface can have it.
    #[error("hostShim.addresses: {0}")]
    Unusable(#[from] UnusableIp),
    /// Another link has the name, or it is on another one.
    #[error("hostShim: {name} is {found}, and not a macvlan on {parent}: delete it, or name another network")]
    Taken {
        /// The shim's name.
        name: IfName,
        /// What has it.
        found: String,
        /// Where the shim should be.
        parent: String,
    },
}

/// A network's shim that should exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shim {
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
}

impl Shim {
    /// The shim that a configuration asks for.
    ///
    /// # Errors
    /// [`ShimError`], of an address.
    pub fn resolve(config: &ShimConfig) -> Result<Self, ShimError> {
        if config.addresses.is_empty() {
            return Err(ShimError::NoAddress);
        }
        let address = |text: &String| {
            let address: IpNetwork = text.parse().map_err(|_| ShimError::Malformed(text.clone()))?;
            IpConfig { interface: None, address, gateway: None }.refuse_unusable()?;
            Ok::<_, ShimError>(address.ip())
        };
        Ok(Self { addresses: config.addresses.iter().map(address).collect::<Result<_, _>>()? })
    }

    /// Makes the shim on `parent`, if it isn't there or lacks something, and the routes to this owner's addresses. Idempotent.
    /// The routes, and the shim if it has no others, are pushed to `undo`. Returns the shim.
    ///
    /// # Errors
    /// [`ShimError`].
    pub fn add(
        &self,
        host: &Rc<Netlink>,
        parent: &Link,
        owner: &Owner,
        ips: &[IpAddr],
        undo: &mut Undo,
    ) -> Result<Link, CniError> {
        // No DEL deletes the shim while it has no route of this owner yet.
        let _in_use = Lock::if_possible(Lock::to_use_shared_links())?;
        let (taken_back, of) = (Rc::clone(host), owner.clone());
        undo.push("the routes through the shim", move || remove(&taken_back, &of));
        let link = self.ensure(host, parent, &owner.network)?;
        for ip in ips {
            match host.add_route(&route(*ip, link.index, owner)) {
                Ok(()) | Err(NetError::Exists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(link)
    }

    fn ensure(&self, host: &Netlink, parent: &Link, network: &NetworkName) -> Result<Link, ShimError> {
        let name = name(network);
        let kind = MacVlan::new(parent.index, MacVlanMode::Bridge);
        let spec = LinkSpec { mac: Some(mac::of_node(network.as_str())), ..LinkSpec::new(name.clone(), &kind) };
        let link = match host.link_by_name(name.as_str())? {
            Some(link) => link,
            None => match host.create_link(&spec) {
                Ok(link) => link,
                // Another ADD has just made it.
                Err(exists @ NetError::Exists { .. }) => host.link_by_name(name.as_str())?.ok_or(exists)?,
                Err(error) => return Err(error.into()),
            },
        };
        if link.macvlan_mode != Some(MacVlanMode::Bridge) || link.peer_index != Some(lower_index(parent, "macvlan")) {
            let found = link.kind.unwrap_or_else(|| "another link".to_owned());
            return Err(ShimError::Taken { name, found, parent: parent.name.clone() });
        }
        if !link.up {
            settings(&name).iter().for_each(|(path, value)| drop(sysctl::write(path, value)));
        }
        for address in &self.addresses {
            let options = AddressOptions { no_dad: true, no_prefix_route: false };
            host.add_address(link.index, IpNetwork::from(*address), &options)?;
        }
        if !link.up {
            let alias = Some(format!("cni {network}: node's link to the containers"));
            host.change_link(link.index, &LinkChange { up: Some(true), alias, ..LinkChange::default() })?;
        }
        Ok(link)
    }

    /// What [`Shim::add`] does, as commands, on the node's link `parent`. The MAC address is left out.
    pub fn commands(&self, parent: &str, owner: &Owner, ips: &[IpAddr]) -> Vec<String> {
        let name = name(&owner.network);
        let node = Place::Node;
        let mut commands = vec![node.ip(&format!("link add link {parent} {name} type macvlan mode bridge"))];
        commands.extend(settings(&name).iter().map(|(path, value)| node.sysctl(path, value)));
        let own = Layer3 {
            addresses: self.addresses.iter().map(|address| IpNetwork::from(*address)).collect(),
            ..Layer3::new(&name)
        };
        commands.extend(own.commands(node));
        commands.push(node.ip(&format!("link set {name} up")));
        commands.extend(ips.iter().map(|ip| node.ip(&format!("route add {} dev {name}", route(*ip, 0, owner)))));
        commands
    }

    /// Compares the shim, its addresses and the routes to this owner's addresses.
    ///
    /// # Errors
    /// The kernel's.
    pub fn check(&self, host: &Netlink, owner: &Owner, ips: &[IpAddr]) -> Result<Vec<Difference>, NetError> {
        let name = name(&owner.network);
        let Some(link) = host.link_by_name(name.as_str())? else {
            return Ok(vec![Difference::missing(format!("hostShim {name}"))]);
        };
        let mut differences = Vec::new();
        if !link.up {
            differences.push(Difference::new(format!("hostShim {name}"), "up", "down"));
        }
        let present = host.addresses(link.index)?;
        for address in &self.addresses {
            if !present.iter().any(|found| found.network.ip() == *address) {
                differences.push(Difference::missing(format!("address {address} of hostShim {name}")));
            }
        }
        let routes = container_routes(host, link.index)?;
        for wanted in ips.iter().map(|ip| route(*ip, link.index, owner)) {
            if !routes.iter().any(|found| wanted.is_met_by(found)) {
                differences.push(Difference::missing(format!("route {wanted} dev {name}")));
            }
        }
        Ok(differences)
    }
}

/// Removes this owner's routes and, if it has no others, the shim. Idempotent. Needs no configuration.
///
/// # Errors
/// The kernel's.
pub fn remove(host: &Netlink, owner: &Owner) -> Result<(), CniError> {
    retain_routes(host, &owner.network, |route| route.priority != Some(metric(owner)))
}

/// As [`remove`], for all owners of the network that are not in `valid`.
///
/// # Errors
/// The kernel's.
pub fn retain(host: &Netlink, network: &NetworkName, valid: &[Owner]) -> Result<(), CniError> {
    let metrics: Vec<u32> = valid.iter().map(metric).collect();
    retain_routes(host, network, |route| route.priority.is_some_and(|found| metrics.contains(&found)))
}

fn retain_routes(host: &Netlink, network: &NetworkName, is_kept: impl Fn(&Route) -> bool) -> Result<(), CniError> {
    let name = name(network);
    let find = || -> Result<Option<Link>, NetError> {
        Ok(host.link_by_name(name.as_str())?.filter(|link| link.kind.as_deref() == Some("macvlan")))
    };
    if find()?.is_none() {
        return Ok(());
    }
    let _unused = Lock::if_possible(Lock::to_delete_shared_links())?;
    // Another DEL may have deleted it meanwhile.
    let Some(link) = find()? else { return Ok(()) };
    let (kept, stale): (Vec<Route>, Vec<Route>) = container_routes(host, link.index)?.into_iter().partition(is_kept);
    for route in &stale {
        host.delete_route(route)?;
    }
    if kept.is_empty() {
        host.delete_link(link.index)?;
    }
    Ok(())
}

/// The routes to attachments' addresses through the shim.
fn container_routes(host: &Netlink, shim: u32) -> Result<Vec<Route>, NetError> {
    let mut found = Vec::new();
    for family in Family::ALL {
        let routes = host.routes(&RouteFilter { family, device: Some(shim), table: Some(MAIN) })?;
        found.extend(routes.into_iter().filter(|route| route.priority.is_some_and(|metric| metric >= METRICS)));
    }
    Ok(found)
}

fn route(ip: IpAddr, shim: u32, owner: &Owner) -> Route {
    Route { priority: Some(metric(owner)), ..Route::new(IpNetwork::from(ip), None, shim) }
}

/// The owner as a metric. Two owners have the same one with a probability of one in 2^30.
fn metric(owner: &Owner) -> u32 {
    METRICS | u32::from_str_radix(&sha512_hex(&[&owner.key()], 8), 16).unwrap_or_default() & (METRICS - 1)
}

/// The shim's name, by which DEL and GC find it without a configuration.
pub fn name(network: &NetworkName) -> IfName {
    let name = format!("shim{}", sha512_hex(&[network.as_str()], 11));
    name.parse().unwrap_or_else(|_| unreachable!("15 letters and digits"))
}

/// What is written before the shim goes up. The parent's neighbours send their broadcasts to the shim too: it answers and
/// announces for its own addresses only, or they would learn its hardware address for the node's other ones.
fn settings(name: &IfName) -> [(String, &'static str); 3] {
    [
        (format!("net/ipv4/conf/{name}/arp_ignore"), "1"),
        (format!("net/ipv4/conf/{name}/arp_announce"), "2"),
        (format!("net/ipv6/conf/{name}/accept_ra"), "0"),
    ]
}
