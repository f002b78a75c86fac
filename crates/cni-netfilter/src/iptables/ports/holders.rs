//! Finds out whether a host port is published by another owner.
//!
//! The first entry rule that matches wins, so the owner of the first one holds the port, and appending an entry behind it
//! takes nothing away from it. ADD therefore appends first and reads in the same process what was there before. That isn't
//! safe beside another ADD of the same port, for which the caller has a lock: iptables-nft repeats a transaction that
//! another process made stale, and doesn't list again.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

use cni_plugin::Protocol;

use super::port_range::{PortRange, PortSet, joined};
use super::rules::DNAT;
use crate::intent::{PortForward, PortForwards};
use crate::iptables::owned::{link_of, owner_comment, owner_key};
use crate::iptables::tool::{IptablesError, Rule, Table, port_numbers};

/// Who holds a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    /// Of the port: as its rule has it.
    pub(super) port: PortForward,
    /// In words, from the owner rule or Go's comment.
    pub(super) name: String,
    /// The chain with its rules.
    pub(super) chain: String,
    /// The key of its owner; empty if Go made it.
    pub(super) key: String,
    /// The node's end of its container's link, if it said so.
    pub(super) link: Option<u32>,
    /// All that is published for it.
    pub(super) ports: Vec<PortForward>,
}

impl Holder {
    /// Why an ADD is refused.
    pub(super) fn refuses(&self) -> IptablesError {
        let PortForward { protocol, host_ip, host_port: port, .. } = self.port;
        IptablesError::PortHeld { protocol, host_ip, port, holder: self.name.clone() }
    }
}

/// True if an entry in `table`, which may be only the listing of [`DNAT`], has one of the intent's ports and leads
/// elsewhere than to `chain`. Whether host addresses overlap can't be seen in it.
pub(super) fn may_be_held(table: &Table, chain: &str, intent: &PortForwards) -> bool {
    let wanted = PortSet::of(joined(&intent.ports));
    foreign_entries(table, chain, intent).any(|entry| listed(entry).iter().any(|there| wanted.overlaps(there)))
}

/// The owners whose entry before those of `chain` leads to a rule for one of the intent's ports and an overlapping address.
///
/// The same container under another network or interface is no other owner here: runtimes pass the port mappings to all
/// of a container's networks, and the first one serves.
pub(super) fn holders(table: &Table, chain: &str, intent: &PortForwards) -> Vec<Holder> {
    let wanted = PortSet::of(joined(&intent.ports));
    let leads = leads(foreign_entries(table, chain, intent)).into_iter();
    let suspects = leads.filter(|lead| lead.ports.iter().any(|there| wanted.overlaps(there)));
    suspects.filter_map(|lead| lead.holder(table, &wanted)).collect()
}

/// What the entries say about one chain that they lead to.
struct Lead<'a> {
    target: &'a str,
    /// The first of the entries.
    entry: &'a Rule,
    ports: Vec<PortRange>,
}

impl Lead<'_> {
    /// The holder that the chain is of, if a rule in it is for one of the wanted ports.
    fn holder(self, table: &Table, wanted: &PortSet) -> Option<Holder> {
        let mut translated: Vec<PortRange> = table.rules(self.target).filter_map(PortRange::read).collect();
        if translated.is_empty() && table.rules(self.target).any(Rule::is_opaque) {
            // Where they lead can't be read, nor of which host addresses.
            translated.clone_from(&self.ports);
        }
        let entered = PortSet::of(self.ports);
        let met: Vec<&PortRange> =
            translated.iter().filter(|there| wanted.overlaps(there) && entered.overlaps(there)).collect();
        let port = wanted.ranges.iter().find_map(|range| met.iter().find_map(|there| there.common(range)))?;
        let comment = owner_comment(table, self.target);
        Some(Holder {
            port,
            name: name(self.entry, comment),
            chain: self.target.to_owned(),
            key: comment.map(owner_key).unwrap_or_default().to_owned(),
            link: link_of(table, self.target),
            ports: translated.iter().copied().flat_map(PortRange::forwards).collect(),
        })
    }
}

/// The chains that the entries lead to, in their order.
fn leads<'a>(entries: impl Iterator<Item = &'a Rule>) -> Vec<Lead<'a>> {
    let mut leads: Vec<Lead<'_>> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for entry in entries {
        let Some(target) = entry.target() else { continue };
        let place = *places.entry(target).or_insert_with(|| {
            leads.push(Lead { target, entry, ports: Vec::new() });
            leads.len() - 1
        });
        leads[place].ports.extend(listed(entry));
    }
    leads
}

fn foreign_entries<'a>(
    table: &'a Table,
    chain: &'a str,
    intent: &PortForwards,
) -> impl Iterator<Item = &'a Rule> + use<'a> {
    let own = format!("id: \"{}\"", intent.owner.container_id);
    let of_container = move |entry: &Rule| entry.comment().is_some_and(|comment| comment.ends_with(&own));
    let before = table.rules(DNAT).take_while(move |entry| entry.target() != Some(chain));
    before.filter(move |entry| !of_container(entry))
}

/// The ports that an entry is for, on any address and to no destination.
fn listed(entry: &Rule) -> Vec<PortRange> {
    let Some(protocol) = entry.value("-p").and_then(Protocol::from_name_or_number) else { return Vec::new() };
    let ports = entry.value("--dports").unwrap_or_default().split(',');
    let to = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let range = |(first, last)| PortRange { protocol, host_ip: None, first, last, to };
    ports.filter_map(port_numbers).map(range).collect()
}

/// The holder in the words of a message: from the entry's comment, which both plugins write, and the owner rule's.
fn name(entry: &Rule, owner_comment: Option<&str>) -> String {
    let names = |comment: &str| {
        let (network, id) = comment.strip_prefix("dnat name: \"")?.split_once("\" id: \"")?;
        let ifname = owner_comment.and_then(|comment| comment.split_once(", if: ")?.1.split_once(','));
        let ifname = ifname.map(|(ifname, _)| format!(" ({ifname})")).unwrap_or_default();
        Some(format!("container {}{ifname} of network {network}", id.trim_end_matches('"')))
    };
    let unknown = || entry.target().map_or_else(|| "an unknown rule".to_owned(), |chain| format!("the chain {chain}"));
    entry.comment().and_then(names).unwrap_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::iptables::tests::{GO_V4, forward, go_ports, owner};

    fn held_by(table: &Table, intent: &PortForwards) -> Vec<Holder> {
        let chain = super::super::rules::wanted(intent).chain(table);
        holders(table, &chain, intent)
    }

    #[test]
    fn the_holder_of_a_port_is_found_by_protocol_number_and_address() {
        let table = Table::parse("nat", GO_V4);
        let to: IpAddr = "10.77.0.3".parse().unwrap();
        let verdict = |id: &str, forward: PortForward| {
            let intent =
                PortForwards { owner: owner(id, "eth0"), ports: vec![forward], ..go_ports("10.77.0.3/24", &[]) };
            let chain = super::super::rules::wanted(&intent).chain(&table);
            let held = held_by(&table, &intent).pop().map_or(Ok(()), |holder| Err(holder.refuses().to_string()));
            assert!(held.is_ok() || may_be_held(&table, &chain, &intent), "what is held may be held");
            held
        };
        let text = verdict("c2", forward(Protocol::Tcp, 8096, None, to, 1)).unwrap_err();
        assert!(text.starts_with("host port 8096 tcp is held by container c1abc of network test-net: "), "{text}");
        assert!(verdict("c2", forward(Protocol::Tcp, 8081, Some("192.0.2.1"), to, 1)).is_err(), "Go's is for all");
        assert!(verdict("c2", forward(Protocol::Sctp, 99, Some("0.0.0.0"), to, 1)).is_err(), "ours is for all");
        assert!(verdict("c2", forward(Protocol::Sctp, 99, Some("10.77.0.1"), to, 1)).is_err());
        assert!(verdict("c2", forward(Protocol::Sctp, 99, Some("10.77.0.9"), to, 1)).is_ok(), "another address");
        assert!(verdict("c2", forward(Protocol::Udp, 8081, None, to, 1)).is_ok(), "another protocol");
        assert!(verdict("c2", forward(Protocol::Tcp, 808, None, to, 1)).is_ok(), "another number");
        assert!(verdict("c2", forward(Protocol::Tcp, 97, None, to, 1)).is_ok(), "in the list for IPv6's sake only");
        assert!(verdict("c1abc", forward(Protocol::Tcp, 8081, None, to, 1)).is_ok(), "the same container");
    }

    #[test]
    fn an_entry_behind_ours_holds_nothing() {
        let intent = PortForwards { owner: owner("c2", "eth0"), ..go_ports("10.77.0.3/24", &[]) };
        let wanted = super::super::rules::wanted(&intent);
        let chain = wanted.kind.shared_name(&intent.owner);
        let first: String = wanted.entries(&chain).iter().map(|rule| format!("{rule}\n")).collect();
        assert!(holders(&Table::parse("nat", &(first + GO_V4)), &chain, &intent).is_empty());
        assert!(!holders(&Table::parse("nat", GO_V4), &chain, &intent).is_empty());
    }
}
