//! Finds out whether a host port is published by somebody else.
//!
//! The first entry rule that matches wins, so whoever comes first holds the port, and appending an entry behind it
//! takes nothing away from it. ADD therefore appends first and reads in the same process what was there before.

use super::names::{link_of, owner_comment};
use super::ports::DNAT;
use super::rules::Rule;
use super::run::{Run, numbers, protocol, runs};
use super::save::Table;
use crate::{PortForwards, Protocol};

/// Who holds a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    /// Of the port: its protocol and number.
    pub(super) port: (Protocol, u16),
    /// In words: as the owner rule or Go's comment has it.
    pub(super) name: String,
    /// The chain with its rules.
    pub(super) chain: String,
    /// The node's end of its container's link, if it said so.
    pub(super) link: Option<u32>,
}

/// True if an entry in `table`, which may be only the listing of [`DNAT`], has one of the intent's ports and leads
/// elsewhere than to `chain`. Whether host addresses overlap can't be told from it.
pub(super) fn suspect(table: &Table, chain: &str, intent: &PortForwards) -> bool {
    let runs = runs(&intent.ports);
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
    let runs = runs(&intent.ports);
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
        let theirs: Vec<Run> = rules.iter().filter_map(Run::read).filter(is_entered).collect();
        let taken = |run: &Run| theirs.iter().find(|there| run.overlaps(there)).map(|there| run.first.max(there.first));
        if let Some((run, port)) = runs.iter().find_map(|run| Some((run, taken(run)?))) {
            let (port, chain) = ((run.protocol, port), target.to_owned());
            holders.push(Holder { port, name: name(entry, rules), chain, link: link_of(rules) });
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

/// The holder in the words of its owner rule, else of Go's comment.
fn name(entry: &Rule, rules: &[Rule]) -> String {
    let named = owner_comment(rules).and_then(|comment| comment.split_once(", ")).map(|(_, names)| names);
    let go = || entry.comment().map(|comment| comment.trim_start_matches("dnat "));
    named.or_else(go).or(entry.target()).unwrap_or("an unknown rule").to_owned()
}
