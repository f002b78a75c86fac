//! ADD and CHECK against one family's tables.

use std::collections::HashSet;

use cni_plugin::{Difference, Lock, Turn};

use super::error::IptablesError;
use super::held::Holder;
use super::names::{self, Kind};
use super::plan::{Wanted, remove_chains};
use super::read::{Reading, read};
use super::rules::{Rule, Script};
use super::save::Table;
use super::tool::{Family, restore};
use super::{held, masquerade, ports};
use crate::{Evicted, IsThere, Masquerade, PortForwards};

/// How often a repair is tried again: whoever repairs the same frame at the same time makes ours fail.
pub(super) const ATTEMPTS: usize = 5;

/// Adds what `family` lacks of the intents' masquerading.
pub(super) fn add_masquerade(family: Family, intents: &[Masquerade]) -> Result<(), IptablesError> {
    let wanted = masquerade::wanted(intents, family);
    let mut script = Script::default();
    script.table("nat");
    wanted.iter().for_each(|wanted| wanted.create(&mut script));
    script.commit();
    match restore(family, &script.finish()?) {
        Err(error) if error.is_refusal() => {}
        outcome => return outcome.map(drop),
    }
    again(|| {
        let table = read(family, "nat")?;
        complete(family, &wanted, &table)
    })
}

/// Adds what `family` lacks of the intents' ports and frame, unless somebody else holds a port. Returns whom it
/// evicted.
pub(super) fn add_ports(
    family: Family,
    intents: &[&PortForwards],
    is_there: IsThere,
) -> Result<Vec<Evicted>, IptablesError> {
    match create_ports(family, intents) {
        Ok(listing) => refuse_held(family, intents, &Table::parse(&listing), is_there),
        Err(error) if error.is_refusal() => {
            // Two that have seen that a shared rule is missing would both append it: iptables-nft repeats a transaction that
            // another one made stale.
            let _turn = Lock::if_possible(Lock::of_turn(Turn::IptablesSkeleton { ipv6: family == Family::V6 }))?;
            let evicted = again(|| evict_or_refuse(family, intents, is_there))?;
            again(|| repair_ports(family, intents))?;
            Ok(evicted)
        }
        Err(error) => Err(error),
    }
}

/// Evicts whoever is gone from the intents' ports, and fails if somebody has one.
pub(super) fn free_ports(
    family: Family,
    intents: &[&PortForwards],
    is_there: IsThere,
) -> Result<Vec<Evicted>, IptablesError> {
    again(|| evict_or_refuse(family, intents, is_there))
}

/// Bets that nothing is there but the frame; prints the entry rules as they were before.
fn create_ports(family: Family, intents: &[&PortForwards]) -> Result<String, IptablesError> {
    let mut script = Script::default();
    script.table("nat");
    script.list(ports::DNAT);
    intents.iter().for_each(|intent| ports::wanted(intent).create(&mut script));
    script.commit();
    restore(family, &script.finish()?)
}

/// After the fact: whether one of the ports was in an entry of `before`. Ours are behind it and serve nobody yet, and
/// the caller removes them. Whose it is, and whether the host addresses overlap, takes the whole table.
fn refuse_held(
    family: Family,
    intents: &[&PortForwards],
    before: &Table,
    is_there: IsThere,
) -> Result<Vec<Evicted>, IptablesError> {
    let listed = before.chain(ports::DNAT).is_some();
    let chain = |intent: &PortForwards| ports::wanted(intent).chain(before);
    if listed && !intents.iter().any(|intent| held::suspect(before, &chain(intent), intent)) {
        return Ok(Vec::new());
    }
    again(|| evict_or_refuse(family, intents, is_there))
}

/// Fails if one of the ports has a holder; but one that had a link and is no more there is removed, and returned.
fn evict_or_refuse(
    family: Family,
    intents: &[&PortForwards],
    is_there: IsThere,
) -> Result<Vec<Evicted>, IptablesError> {
    let reading = Reading::of(family, "nat", || true)?;
    let table = &reading.table;
    let chain = |intent: &PortForwards| ports::wanted(intent).chain(table);
    let holders: Vec<Holder> = intents.iter().flat_map(|intent| held::holders(table, &chain(intent), intent)).collect();
    if holders.is_empty() {
        return Ok(Vec::new());
    }
    let is_gone = |holder: &&Holder| holder.link.is_some_and(|link| !is_there(&holder.key, link));
    if let Some(holder) = holders.iter().find(|holder| !is_gone(holder)) {
        return Err(holder.refuses());
    }
    let mut chains: Vec<String> = holders.iter().map(|holder| holder.chain.clone()).collect();
    chains.sort_unstable();
    chains.dedup();
    let mut script = Script::default();
    script.table("nat");
    remove_chains(table, &chains, &mut script);
    reading.remove(family, &script.commit_and_finish()?)?;
    Ok(holders.into_iter().map(|holder| Evicted { holder: holder.name, ports: holder.ports }).collect())
}

fn repair_ports(family: Family, intents: &[&PortForwards]) -> Result<(), IptablesError> {
    let table = read(family, "nat")?;
    let wanted: Vec<Wanted> = intents.iter().map(|intent| ports::wanted(intent)).collect();
    let missing = intents.iter().filter_map(|intent| ports::external_chain(intent));
    let missing = missing.filter(|chain| table.chain(chain).is_none()).map(str::to_owned).next();
    match (complete(family, &wanted, &table), missing) {
        (Err(error), Some(chain)) if error.is_refusal() => {
            Err(IptablesError::NoMarkChain { chain, tool: family.command() })
        }
        (outcome, _) => outcome,
    }
}

/// Adds to `family`'s `nat` table what it lacks, in one transaction.
fn complete(family: Family, wanted: &[Wanted], table: &Table) -> Result<(), IptablesError> {
    let mut script = Script::default();
    script.table("nat");
    let before = script.len();
    wanted.iter().for_each(|wanted| wanted.repair(table, &mut script));
    let idle = script.len() == before;
    let text = script.commit_and_finish()?;
    if idle { Ok(()) } else { restore(family, &text).map(drop) }
}

/// Repeats `attempt`, which looks and then acts, while the tool refuses because somebody acted in between.
pub(super) fn again<T>(attempt: impl Fn() -> Result<T, IptablesError>) -> Result<T, IptablesError> {
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(error) if error.is_refusal() => {}
            outcome => return outcome,
        }
    }
    attempt()
}

/// What `family` lacks of the intents' masquerading.
pub(super) fn check_masquerade(family: Family, intents: &[Masquerade]) -> Result<Vec<Difference>, IptablesError> {
    compare(family, &read(family, "nat")?, masquerade::wanted(intents, family))
}

/// What `family` lacks of the intents' ports and frame, and whether all of it is as the Go plugin made it.
pub(super) fn check_ports(family: Family, intents: &[&PortForwards]) -> Result<(Vec<Difference>, bool), IptablesError> {
    let table = read(family, "nat")?;
    let made_by_go = |intent: &PortForwards| names::made_by_go(&table, Kind::Ports, &intent.owner);
    let wanted = |intent: &&PortForwards| {
        if made_by_go(intent) {
            return ports::wanted_singly(intent);
        }
        let wanted = ports::wanted(intent);
        // Addresses that ADD found by itself may be others by now.
        let there = table.chain(&wanted.present_chain(&table)).map(ports::excluded).unwrap_or_default();
        if !intent.exclude.is_empty() || there.is_empty() {
            return wanted;
        }
        ports::wanted(&PortForwards { exclude: there, ..(*intent).clone() })
    };
    let is_gos = intents.iter().all(|intent| made_by_go(intent));
    Ok((compare(family, &table, intents.iter().map(wanted))?, is_gos))
}

/// Compares the tables' text: what `-C` says can't be relied on to tell all rules apart. ip6tables 1.8.9 (legacy)
/// ignores ports, addresses to translate to and much else in it, iptables 1.8.11 (nft) ignores interfaces.
fn compare(
    family: Family,
    table: &Table,
    wanted: impl IntoIterator<Item = Wanted>,
) -> Result<Vec<Difference>, IptablesError> {
    let mut differences = Vec::new();
    for wanted in wanted {
        let missing = wanted.differences(table, family.command());
        if missing.is_empty() && wanted.free_form {
            differences.extend(check_conditions(family, &wanted, table)?);
        }
        differences.extend(missing);
    }
    Ok(differences)
}

/// The entry rules have the right ports and lead to the right chain; whether their conditions are the configured ones,
/// only the tool can tell.
fn check_conditions(family: Family, wanted: &Wanted, table: &Table) -> Result<Option<Difference>, IptablesError> {
    let chain = wanted.present_chain(table);
    let entries = wanted.entries(&chain);
    let there: HashSet<_> = table.jumps_to(&chain).map(Rule::meaning).collect();
    if entries.iter().all(|rule| there.contains(&rule.meaning())) {
        return Ok(None);
    }
    let mut script = Script::default();
    script.table("nat");
    entries.iter().for_each(|rule| script.check(rule));
    match restore(family, &script.commit_and_finish()?) {
        Ok(_) => Ok(None),
        Err(error) if error.is_refusal() => {
            let thing = format!("{} -t nat entry rules of {chain}", family.command());
            let expected: Vec<String> = entries.iter().map(ToString::to_string).collect();
            let found: Vec<String> = table.jumps_to(&chain).map(ToString::to_string).collect();
            Ok(Some(Difference::new(thing, expected.join(", "), found.join(", "))))
        }
        Err(error) => Err(error),
    }
}
