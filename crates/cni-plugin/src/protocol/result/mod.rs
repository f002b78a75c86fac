//! The result of ADD, in the newest version's form (SPEC.md, "Success"), read from and written in every version.

mod read;
mod select;
mod usable;
mod write;

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

pub use read::ReadError;
pub use usable::UnusableIp;
pub use write::WriteError;

use crate::protocol::addr;
use crate::protocol::names::MacAddr;

/// What an attachment consists of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CniResult {
    /// The interfaces made or used, on the host and in the container.
    pub interfaces: Vec<Interface>,
    /// The addresses.
    pub ips: Vec<IpConfig>,
    /// The routes in the container.
    pub routes: Vec<Route>,
    /// Name resolution in the container.
    pub dns: Dns,
}

impl CniResult {
    /// This result with what an earlier plugin of the chain reported behind it: its interfaces, its addresses (whose indexes
    /// are moved), its routes, and its name resolution where this one has none (SPEC.md, "Success").
    #[must_use]
    pub(crate) fn followed_by(mut self, previous: &Self) -> Self {
        let own = i64::try_from(self.interfaces.len()).unwrap_or(i64::MAX);
        let moved =
            |ip: &IpConfig| IpConfig { interface: ip.interface.map(|index| index.saturating_add(own)), ..ip.clone() };
        self.ips.extend(previous.ips.iter().map(moved));
        self.interfaces.extend_from_slice(&previous.interfaces);
        self.routes.extend_from_slice(&previous.routes);
        if self.dns.is_empty() {
            self.dns = previous.dns.clone();
        }
        self
    }
}

/// An interface of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address, in lower case with colons; empty if unknown.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Its MTU in bytes; 0 if unknown.
    #[serde(skip_serializing_if = "is_zero")]
    pub mtu: u32,
    /// The path of the namespace it is in; empty for the host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// The socket that it is reached through, if it isn't the kernel's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// The PCI device behind it.
    #[serde(rename = "pciID", skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

impl Interface {
    /// An interface with what every plugin reports: its name, its hardware address, and the path of the namespace it is in,
    /// which is empty for the node's.
    pub fn new(name: &str, mac: MacAddr, sandbox: &str) -> Self {
        Self { name: name.to_owned(), mac: mac.to_string(), sandbox: sandbox.to_owned(), ..Self::default() }
    }

    /// With this MTU; 0 is left out of the result.
    #[must_use]
    pub fn with_mtu(self, mtu: u32) -> Self {
        Self { mtu, ..self }
    }
}

/// An address of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// Which of the result's interfaces has it; a reader must expect an index that is out of range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<i64>,
    /// The address with its prefix length.
    #[serde(with = "addr::cidr")]
    pub address: IpNetwork,
    /// The gateway of its subnet.
    #[serde(default, with = "addr::optional", skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A route of a result or of an IPAM configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The destination.
    #[serde(with = "addr::cidr")]
    pub dst: IpNetwork,
    /// The next hop; without one, the gateway of the first address of its family is meant.
    #[serde(default, with = "addr::optional", skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// Path MTU in bytes; 0 leaves it to the kernel.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mtu: u32,
    /// The TCP maximum segment size to advertise, in bytes; 0 leaves it to the kernel.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub advmss: u32,
    /// The metric; 0 leaves it to the kernel.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: u32,
    /// The routing table; the main table (254) if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// The scope as in rtnetlink(7): 0 universe, 253 link, 254 host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

impl Route {
    /// A route to `dst` through `gw`, with everything else left to the kernel.
    pub fn new(dst: IpNetwork, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: 0, advmss: 0, priority: 0, table: None, scope: None }
    }

    /// The destination that the kernel has after this route was added: it clears the host bits of an IPv6 destination
    /// (`ip6_route_info_create` in net/ipv6/route.c). IPv4 destinations are returned as they are, for it refuses those
    /// with host bits (`fib_table_insert` in net/ipv4/fib_trie.c).
    pub fn kernel_dst(&self) -> IpNetwork {
        match self.dst {
            IpNetwork::V6(dst) => IpNetwork::new(dst.network().into(), dst.prefix()).unwrap_or(self.dst),
            IpNetwork::V4(_) => self.dst,
        }
    }
}

/// Name resolution.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Servers, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// The search list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// True if it has no entry.
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's skip_serializing_if passes a reference
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_before_follows_and_keeps_its_interfaces() {
        let result = |name: &str, address: &str, server: &[&str]| CniResult {
            interfaces: vec![Interface { name: name.into(), ..Interface::default() }],
            ips: vec![IpConfig { interface: Some(0), address: address.parse().unwrap(), gateway: None }],
            routes: vec![Route::new(address.parse().unwrap(), None)],
            dns: Dns { nameservers: server.iter().map(ToString::to_string).collect(), ..Dns::default() },
        };
        let (own, previous) = (result("eth0", "10.0.0.2/24", &[]), result("eth7", "10.1.0.2/24", &["10.1.0.53"]));
        let both = own.followed_by(&previous);
        for ip in &both.ips {
            let interface = &both.interfaces[usize::try_from(ip.interface.unwrap()).unwrap()];
            assert_eq!(interface.name == "eth0", ip.address.to_string() == "10.0.0.2/24");
        }
        assert_eq!((both.ips.len(), both.routes.len(), both.dns.nameservers.len()), (2, 2, 1));
        assert_eq!(result("a", "10.0.0.2/24", &["10.0.0.53"]).followed_by(&previous).dns.nameservers, ["10.0.0.53"]);
    }
}
