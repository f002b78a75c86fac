//! Finds out whether a host port is published by somebody else.
//!
//! The first entry rule that matches wins, so whoever comes first holds the port, and appending an entry behind it
//! takes nothing away from it. ADD therefore appends first and reads in the same process what was there before. Not beside
//! another ADD of the same port: iptables-nft repeats a transaction that another one made stale, and doesn't list again, so
//! the caller has a lock.

use std::collections::HashMap;

use super::error::IptablesError;
use super::names::{link_of, owner_comment};
use super::ports::DNAT;
use super::rules::Rule;
use super::run::{PortSet, Run, joined, numbers, protocol};
use super::save::Table;
use crate::nftables::OPAQUE;
use crate::{PortForward, PortForwards};

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
/// elsewhere than to `chain`. Whether host addresses overlap can't be told from it.
pub(super) fn suspect(table: &Table, chain: &str, intent: &PortForwards) -> bool {
    let wanted = PortSet::of(&joined(&intent.ports));
    foreign_entries(table, chain, intent).any(|entry| listed(entry).iter().any(|there| wanted.overlaps(there)))
}

/// Those whose entry before those of `chain` leads to a rule for one of the intent's ports and an overlapping address.
///
/// The same container under another network or interface isn't somebody else: runtimes pass the port mappings to all
/// of a container's networks, and the first one serves.
pub(super) fn holders(table: &Table, chain: &str, intent: &PortForwards) -> Vec<Holder> {
    let runs = joined(&intent.ports);
    let wanted = PortSet::of(&runs);
    let mut holders: Vec<Holder> = Vec::new();
    for (target, entry, listed) in lists(foreign_entries(table, chain, intent)) {
        let rules = table.chain(target).unwrap_or_default();
        if !listed.iter().any(|there| wanted.overlaps(there)) {
            continue;
        }
        let entered = PortSet::of(&listed);
        let mut theirs: Vec<Run> = rules.iter().filter_map(Run::read).collect();
        if theirs.is_empty() && rules.iter().any(|rule| rule.args.iter().any(|arg| arg == OPAQUE)) {
            // Where they lead can't be read, nor of which host addresses.
            theirs.clone_from(&listed);
        }
        let met: Vec<&Run> = theirs.iter().filter(|there| wanted.overlaps(there) && entered.overlaps(there)).collect();
        let taken = |run: &Run| met.iter().find_map(|there| there.common(run));
        if let Some(port) = runs.iter().find_map(taken) {
            let (chain, link) = (target.to_owned(), link_of(rules));
            let ports = theirs.iter().copied().flat_map(Run::forwards).collect();
            let key = owner_comment(rules).and_then(|comment| comment.split(',').next()).unwrap_or_default().to_owned();
            holders.push(Holder { port, name: name(entry, rules), chain, key, link, ports });
        }
    }
    holders
}

/// The ports listed for each chain, with the first of the entries that lead there, in their order.
fn lists<'a>(entries: impl Iterator<Item = &'a Rule>) -> Vec<(&'a str, &'a Rule, Vec<Run>)> {
    let mut lists: Vec<(&str, &Rule, Vec<Run>)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for entry in entries {
        let Some(target) = entry.target() else { continue };
        let place = *places.entry(target).or_insert_with(|| {
            lists.push((target, entry, Vec::new()));
            lists.len() - 1
        });
        lists[place].2.extend(listed(entry));
    }
    lists
}

fn foreign_entries<'a>(
    table: &'a Table,
    chain: &'a str,
    intent: &PortForwards,
) -> impl Iterator<Item = &'a Rule> + use<'a> {
    let own = format!("id: \"{}\"", intent.owner.container_id);
    let of_container = move |entry: &Rule| entry.comment().is_some_and(|comment| comment.ends_with(&own));
    let entries = table.chain(DNAT).unwrap_or_default().iter();
    entries.take_while(move |entry| entry.target() != Some(chain)).filter(move |entry| !of_container(entry))
}

/// The ports that an entry is for, on any address and to nowhere.
fn listed(entry: &Rule) -> Vec<Run> {
    let Some(protocol) = entry.value("-p").and_then(protocol) else { return Vec::new() };
    let ports = entry.value("--dports").unwrap_or_default().split(',');
    let to = (std::net::Ipv4Addr::UNSPECIFIED, 0).into();
    ports.filter_map(numbers).map(|(first, last)| Run { protocol, host_ip: None, first, last, to }).collect()
}

/// The holder in the words of a message: from the entry's comment, which both plugins write, and the owner rule.
fn name(entry: &Rule, rules: &[Rule]) -> String {
    let names = |comment: &str| {
        let (network, id) = comment.strip_prefix("dnat name: \"")?.split_once("\" id: \"")?;
        let told = owner_comment(rules).and_then(|comment| comment.split_once(", if: ")?.1.split_once(','));
        let ifname = told.map(|(ifname, _)| format!(" ({ifname})")).unwrap_or_default();
        Some(format!("container {}{ifname} of network {network}", id.trim_end_matches('"')))
    };
    let unknown = || entry.target().map_or_else(|| "an unknown rule".to_owned(), |chain| format!("the chain {chain}"));
    entry.comment().and_then(names).unwrap_or_else(unknown)
}
