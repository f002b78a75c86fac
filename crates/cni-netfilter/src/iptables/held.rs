//! Finds out whether a host port is published by somebody else.
//!
//! The first entry rule that matches wins, so whoever comes first holds the port, and appending an entry behind it
//! takes nothing away from it. ADD therefore appends first and reads in the same process what was there before.

use std::net::IpAddr;

use super::error::IptablesError;
use super::names::owner_comment;
use super::ports::DNAT;
use super::rules::Rule;
use super::save::Table;
use crate::{PortForward, PortForwards};

/// True if an entry in `table`, which may be only the listing of [`DNAT`], has one of the intent's ports and leads
/// elsewhere than to `chain`. Whether host addresses overlap can't be told from it.
pub(super) fn suspect(table: &Table, chain: &str, intent: &PortForwards) -> bool {
    foreign_entries(table, chain, intent).any(|entry| intent.ports.iter().any(|port| takes(entry, port)))
}

/// Fails if an entry before those of `chain` leads to a rule for one of the intent's ports and an overlapping address.
///
/// The same container under another network or interface isn't somebody else: runtimes pass the port mappings to all
/// of a container's networks, and the first one serves.
pub(super) fn refuse(table: &Table, chain: &str, intent: &PortForwards) -> Result<(), IptablesError> {
    for port in &intent.ports {
        for entry in foreign_entries(table, chain, intent).filter(|entry| takes(entry, port)) {
            let rules = entry.target().and_then(|target| table.chain(target)).unwrap_or_default();
            if rules.iter().any(|rule| translates(rule, port)) {
                let holder = holder(entry, rules);
                return Err(IptablesError::PortHeld { protocol: port.protocol, port: port.host_port, holder });
            }
        }
    }
    Ok(())
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

fn takes(entry: &Rule, port: &PortForward) -> bool {
    let number = port.host_port.to_string();
    entry.value("-p") == Some(&port.protocol.to_string())
        && entry.value("--dports").is_some_and(|ports| ports.split(',').any(|there| there == number))
}

fn translates(rule: &Rule, port: &PortForward) -> bool {
    let address = |text: &str| text.split('/').next().and_then(|ip| ip.parse::<IpAddr>().ok());
    let theirs = rule.value("-d").and_then(address);
    let mine = port.host_ip.filter(|ip| !ip.is_unspecified());
    let overlap = theirs.is_none() || mine.is_none() || theirs == mine;
    rule.target() == Some("DNAT")
        && rule.value("-p") == Some(&port.protocol.to_string())
        && rule.value("--dport") == Some(&port.host_port.to_string())
        && overlap
}

/// The holder in the words of its owner rule, else of Go's comment.
fn holder(entry: &Rule, rules: &[Rule]) -> String {
    let named = owner_comment(rules).and_then(|comment| comment.split_once(", ")).map(|(_, names)| names);
    let go = || entry.comment().map(|comment| comment.trim_start_matches("dnat "));
    named.or_else(go).or(entry.target()).unwrap_or("an unknown rule").to_owned()
}
