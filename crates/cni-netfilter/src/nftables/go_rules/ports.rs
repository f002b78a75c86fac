//! The ports that the Go portmap publishes by nftables, in `ip cni_hostport` and `ip6 cni_hostport`.
//!
//! The comment of these rules is the container's ID. They don't say to which of its attachments they belong.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cni_plugin::{Family, Owner, Protocol};
use netlink_packet_netfilter::nftables::{Cmp, Expressions, Immediate};

use super::remove_rules;
use crate::intent::{PortForward, PortForwards};
use crate::nftables::Nftables;
use crate::nftables::ruleset::data::{read_address, read_port};
use crate::nftables::ruleset::expression::bytes_of;
use crate::nftables::ruleset::rule;
use crate::nftables::wire::{NftError, Socket, Table, TableFamily, part};

/// The chains with rules of containers.
const CHAINS: [&str; 3] = ["hostports", "hostip_hostports", "masquerading"];

fn table(family: Family) -> Table<'static> {
    Table { family: TableFamily::from(family), name: "cni_hostport" }
}

/// The container that some of these rules are for, and its address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoPorts {
    /// The container's ID.
    pub container: String,
    /// Where its ports lead.
    pub address: IpAddr,
}

/// A port that the Go portmap has published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoHeld {
    /// Which port, in words.
    pub port: String,
    /// For which container.
    pub ports: GoPorts,
}

/// Removes all rules for this container, those of all its networks, as the Go plugin itself does. Idempotent.
pub(crate) fn remove(socket: &Socket, container_id: &str) -> Result<(), NftError> {
    Family::ALL.into_iter().try_for_each(|ip| remove_rules(socket, table(ip), &CHAINS, |_, id| id == container_id))
}

/// What a rule is about.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    ports: GoPorts,
    published: Option<Published>,
}

#[derive(Debug, PartialEq, Eq)]
struct Published {
    protocol: Option<Protocol>,
    host_ip: Option<IpAddr>,
    host_port: u16,
    container_port: u16,
}

impl Read {
    /// By the values that the rule compares with or loads, in their order. The container's address is the last one:
    /// `[ip daddr ADDRESS] tcp dport PORT dnat to ADDRESS:PORT`, or `ip saddr … ip daddr ADDRESS masquerade`.
    fn of(family: Family, rule: &[Expressions], container: &str) -> Option<Self> {
        let values: Vec<&[u8]> = rule.iter().filter_map(value).collect();
        let address = |bytes: &&[u8]| read_address(bytes).filter(|address| Family::of(*address) == family);
        let addresses: Vec<IpAddr> = values.iter().filter_map(address).collect();
        let (address, before) = addresses.split_last()?;
        let protocol = values.iter().find_map(|value| if let [number] = value { Some(*number) } else { None });
        let mut ports = values.iter().filter(|value| value.len() == 2).filter_map(|value| read_port(value));
        let (host_port, container_port) = (ports.next(), ports.next());
        let published = protocol.zip(host_port.zip(container_port)).map(|(protocol, (host_port, container_port))| {
            let (protocol, host_ip) = (Protocol::from_number(protocol), before.first().copied());
            Published { protocol, host_ip, host_port, container_port }
        });
        Some(Self { ports: GoPorts { container: container.to_owned(), address: *address }, published })
    }

    /// True if the rule and `port` are about the same port of the node.
    fn conflicts_with(&self, port: &PortForward) -> bool {
        let Some(Published { protocol, host_ip, host_port, .. }) = self.published else { return false };
        let overlaps = host_ip.is_none_or(|address| port.specified_ip().is_none_or(|wanted| wanted == address));
        (protocol, host_port) == (Some(port.protocol), port.host_port) && overlaps
    }

    /// True if this is the rule that the Go plugin makes for the owner's port.
    fn publishes(&self, owner: &Owner, port: &PortForward) -> bool {
        let (protocol, host_ip) = (Some(port.protocol), port.specified_ip());
        let published = Published { protocol, host_ip, host_port: port.host_port, container_port: port.to.port() };
        let ports = GoPorts { container: owner.container_id.to_string(), address: port.to.ip() };
        *self == Self { ports, published: Some(published) }
    }
}

/// What an expression compares with or loads.
fn value(expression: &Expressions) -> Option<&[u8]> {
    let data = match expression {
        Expressions::Cmp(parts) => part!(parts, Cmp::Data),
        Expressions::Immediate(parts) => part!(parts, Immediate::Data),
        _ => None,
    };
    data.and_then(bytes_of).map(Vec::as_slice)
}

fn read_all(socket: &Socket, family: Family) -> Result<Vec<Read>, NftError> {
    let mut all = Vec::new();
    rule::scan_commented(socket, table(family), &CHAINS, |rule, container| {
        all.extend(Read::of(family, &rule.expressions, container));
    })?;
    Ok(all)
}

impl Nftables {
    /// The containers for which the Go portmap published ports by nftables, with the addresses that these lead to. Its rules
    /// name no network, so only the caller can find out which of them are out of use.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn go_ports(&self) -> Result<BTreeSet<GoPorts>, NftError> {
        let mut listed = BTreeSet::new();
        for family in Family::ALL {
            listed.extend(read_all(&self.socket, family)?.into_iter().map(|read| read.ports));
        }
        Ok(listed)
    }

    /// Those that have a port of these intents, if they are not for the intent's own container.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn go_holders(&self, intents: &[PortForwards]) -> Result<Vec<GoHeld>, NftError> {
        let mut held = Vec::new();
        for intent in intents {
            let own = intent.owner.container_id.as_str();
            let others = read_all(&self.socket, Family::of(intent.container.ip()))?;
            for read in others.into_iter().filter(|read| read.ports.container != own) {
                let port = intent.ports.iter().find(|port| read.conflicts_with(port));
                held.extend(port.map(|port| GoHeld { port: port.name(), ports: read.ports }));
            }
        }
        Ok(held)
    }

    /// True if the Go portmap publishes each of these ports, and packets come to its rules.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn go_publishes(&self, intents: &[PortForwards]) -> Result<bool, NftError> {
        for intent in intents {
            let family = Family::of(intent.container.ip());
            for chain in ["prerouting", "output", "hostports_all"] {
                if !self.has_rules(family.into(), table(family).name, chain)? {
                    return Ok(false);
                }
            }
            let there = read_all(&self.socket, family)?;
            if !intent.ports.iter().all(|port| there.iter().any(|read| read.publishes(&intent.owner, port))) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes the Go portmap's rules for these containers and addresses. Idempotent.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_go_ports(&self, those: &BTreeSet<GoPorts>) -> Result<(), NftError> {
        Family::ALL.into_iter().try_for_each(|family| {
            remove_rules(&self.socket, table(family), &CHAINS, |rule, container| {
                let read = Read::of(family, &rule.expressions, container);
                read.is_some_and(|read| those.contains(&read.ports))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nftables::ruleset::expression::{self as expr, Side};
    use netlink_packet_netfilter::nftables::{DataAttribute, MetaKey, Operator};

    fn immediate(bytes: Vec<u8>) -> Expressions {
        Expressions::Immediate(vec![
            Immediate::DestinationRegister(expr::register(0)),
            Immediate::Data(DataAttribute::Value(bytes)),
        ])
    }

    /// `[ip daddr <host address>] <protocol> dport <port> dnat to <container>`, as `nft` sends it.
    fn rule(host_ip: Option<&str>, protocol: u8, host_port: u16, to: &str) -> Vec<Expressions> {
        let to: std::net::SocketAddr = to.parse().unwrap();
        let mut rule = Vec::new();
        if let Some(address) = host_ip.map(|address| address.parse().unwrap()) {
            rule = expr::address_in(Side::Destination, address, if address.is_ipv4() { 32 } else { 128 });
        }
        rule.extend([expr::meta(MetaKey::L4Proto, 0), expr::compare(Operator::Equal, [protocol])]);
        rule.extend([expr::port(Side::Destination, 0), expr::compare(Operator::Equal, host_port.to_be_bytes())]);
        rule.push(immediate(crate::nftables::ruleset::data::address(to.ip())));
        rule.push(immediate(to.port().to_be_bytes().to_vec()));
        rule
    }

    fn port(host_ip: Option<&str>, host_port: u16, to: &str) -> PortForward {
        let host_ip = host_ip.map(|address| address.parse().unwrap());
        PortForward { protocol: Protocol::Tcp, host_ip, host_port, to: to.parse().unwrap() }
    }

    #[test]
    fn a_rule_tells_container_address_and_ports() {
        for (host_ip, to) in
            [(None, "10.1.0.2:80"), (Some("192.0.2.1"), "10.1.0.2:80"), (Some("2001:db8::1"), "[fd00::2]:80")]
        {
            let port = port(host_ip, 8080, to);
            let read = Read::of(Family::of(port.to.ip()), &rule(host_ip, 6, 8080, to), "c1").unwrap();
            assert_eq!(read.ports, GoPorts { container: "c1".to_owned(), address: port.to.ip() });
            let owner = |id: &str| Owner {
                network: "n".parse().unwrap(),
                container_id: id.parse().unwrap(),
                ifname: "eth0".parse().unwrap(),
            };
            assert!(read.publishes(&owner("c1"), &port) && !read.publishes(&owner("c2"), &port), "{read:?}");
            assert!(!read.publishes(&owner("c1"), &PortForward { host_port: 8081, ..port }));
        }
        // `ip saddr … ip daddr … masquerade` publishes nothing.
        let sources: Vec<_> = ["10.1.0.0", "10.1.0.2"]
            .into_iter()
            .flat_map(|address| expr::address_in(Side::Source, address.parse().unwrap(), 32))
            .collect();
        let read = Read::of(Family::V4, &sources, "c1").unwrap();
        assert_eq!((read.ports.address.to_string().as_str(), read.published), ("10.1.0.2", None));
        assert_eq!(Read::of(Family::V4, &[expr::masquerade()], "c1"), None);
    }

    #[test]
    fn ports_conflict_if_protocol_and_number_are_the_same_and_the_addresses_overlap() {
        let (v4, other) = (Some("192.0.2.1"), Some("192.0.2.2"));
        for (host_ip, protocol, number, wanted, conflicts) in [
            (None, 6, 80, None, true),
            (None, 6, 80, v4, true),
            (v4, 6, 80, None, true),
            (v4, 6, 80, Some("0.0.0.0"), true),
            (v4, 6, 80, v4, true),
            (v4, 6, 80, other, false),
            (None, 17, 80, None, false),
            (None, 1, 80, None, false),
            (None, 6, 81, None, false),
        ] {
            let read = Read::of(Family::V4, &rule(host_ip, protocol, number, "10.1.0.2:80"), "c1").unwrap();
            assert_eq!(read.conflicts_with(&port(wanted, 80, "10.1.0.3:80")), conflicts, "{read:?} {wanted:?}");
        }
    }
}
