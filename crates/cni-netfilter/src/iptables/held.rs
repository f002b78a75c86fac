//! Finds out whether a host port is published by somebody else.
//!
//! The first entry rule that matches wins, so whoever comes first holds the port, and appending an entry behind it
//! takes nothing away from it. ADD therefore appends first and reads in the same process what was there before. Not beside
//! another ADD of the same port: iptables-nft repeats a transaction that another one made stale, and doesn't list again, so
//! the caller has a lock.

use super::error::IptablesError;
use super::names::{link_of, owner_comment};
use super::ports::DNAT;
use super::rules::Rule;
use super::run::{Run, joined, numbers, protocol};
use super::save::Table;
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
    let runs = joined(&intent.ports);
    foreign_entries(table, chain, intent).any(|entry| {
        let listed = listed(entry);
        runs.iter().any(|run| listed.iter().any(|there| there.overlaps(&Run { host_ip: None, ..*run })))
    })
}

/// Those whose entry before those of `chain` leads to a rule for one of the intent's ports and an overlapping address.
///
/// The same container under another network or interface isn't somebody else: runtimes pass the port mappings to all
/// of a container's networks, and the first one serves.
pub(super) fn holders(table: &Table, chain: &str, intent: &PortForwards) -> Vec<Holder> {
    let runs = joined(&intent.ports);
    let mut holders: Vec<Holder> = Vec::new();
    for entry in foreign_entries(table, chain, intent) {
        let Some(target) = entry.target().filter(|target| holders.iter().all(|known| known.chain != *target)) else {
            continue;
        };
        let same = foreign_entries(table, chain, intent).filter(|other| other.target() == Some(target));
        let listed: Vec<Run> = same.flat_map(listed).collect();
        let rules = table.chain(target).unwrap_or_default();
        let mine = |there: &Run| runs.iter().any(|run| run.overlaps(there));
        if !listed.iter().any(mine) {
            continue;
        }
        let is_entered = |there: &Run| listed.iter().any(|entry| entry.overlaps(&Run { host_ip: None, ..*there }));
        let theirs: Vec<Run> = rules.iter().filter_map(Run::read).collect();
        let entered = || theirs.iter().filter(|there| is_entered(there));
        let taken = |run: &Run| entered().find_map(|there| there.common(run));
        if let Some(port) = runs.iter().find_map(taken) {
            let (chain, link) = (target.to_owned(), link_of(rules));
            let ports = theirs.iter().copied().flat_map(Run::forwards).collect();
            let key = owner_comment(rules).and_then(|comment| comment.split(',').next()).unwrap_or_default().to_owned();
            holders.push(Holder { port, name: name(entry, rules), chain, key, link, ports });
        }
    }
    holders
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
