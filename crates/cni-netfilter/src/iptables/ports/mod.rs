//! Published ports: ADD and CHECK against one family's `nat` table. DEL and GC are those of all owned chains.

mod holders;
mod port_range;
mod rules;

use cni_plugin::{Difference, Family, Lock, Owner, Turn};

use self::holders::Holder;
use super::owned::{self, OwnedChain, again, try_change};
use super::tool::{IptablesError, Reading, Rule, Script, ScriptCommand, Table, Tools, command};
use crate::intent::{self, Displaced, IsThere, PortForward, PortForwards};

pub(super) use port_range::PortRange;
pub(super) use rules::{CHAINS, DNAT};

/// What CHECK found of published ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortsCheck {
    /// What is missing, altered or in the way.
    pub differences: Vec<Difference>,
    /// True if all the rules are as the Go plugin made them.
    pub made_by_go: bool,
}

/// The families of which the intents have ports.
pub(super) fn families(intents: &[PortForwards]) -> Vec<Family> {
    Family::among(intents.iter().filter(|intent| !intent.ports.is_empty()).map(|intent| intent.container.ip()))
}

/// The intents of `family`, of which each owner may have one.
fn of_family(intents: &[PortForwards], family: Family) -> Vec<&PortForwards> {
    let fits = |intent: &&PortForwards| Family::of(intent.container.ip()) == family && !intent.ports.is_empty();
    intents.iter().filter(fits).collect()
}

/// The rules for the intents of `family`.
pub(super) fn wanted(intents: &[PortForwards], family: Family) -> Vec<OwnedChain> {
    of_family(intents, family).into_iter().map(rules::wanted).collect()
}

/// What DEL expects to find for an owner that was given these hints.
pub(super) fn hinted(owner: &Owner, hints: &[PortForwards], family: Family) -> Vec<OwnedChain> {
    let hints = of_family(hints, family).into_iter().filter(|hint| hint.owner == *owner);
    hints.map(rules::wanted).collect()
}

/// What removed `rules` had published.
pub(super) fn published(rules: &[Rule]) -> Vec<PortForward> {
    rules.iter().filter_map(PortRange::read).flat_map(PortRange::forwards).collect()
}

/// The table that [`add`] makes of an empty one.
pub(super) fn plan(intents: &[PortForwards], family: Family) -> Table {
    owned::plan(&CHAINS, &wanted(intents, family))
}

/// Adds what `family` lacks of the intents' ports and skeleton, unless another owner holds a port. Returns whom it evicted.
pub(super) fn add(
    family: Family,
    intents: &[PortForwards],
    is_there: IsThere,
) -> Result<Vec<Displaced>, IptablesError> {
    match create(family, intents) {
        Ok(listing) => refuse_held(family, intents, &Table::parse(CHAINS.table, &listing), is_there),
        Err(error) if error.is_refusal() => {
            // Two that have seen that a shared rule is missing would both append it: iptables-nft repeats a transaction that
            // another one made stale.
            let _turn = Lock::if_possible(Lock::of_turn(Turn::IptablesSkeleton { ipv6: family == Family::V6 }))?;
            let evicted = free(family, intents, is_there)?;
            again(|| complete(family, intents))?;
            Ok(evicted)
        }
        Err(error) => Err(error),
    }
}

/// Assumes that nothing is there but the skeleton; prints the entry rules as they were before.
fn create(family: Family, intents: &[PortForwards]) -> Result<String, IptablesError> {
    let mut script = Script::new(CHAINS.table);
    script.push(ScriptCommand::List(DNAT.to_owned()));
    wanted(intents, family).iter().for_each(|wanted| wanted.create(&mut script));
    Tools::of(family).restore(&script)
}

/// Fails if one of the ports was in an entry of `before`, the table before the change. The new entries come after it, so that no
/// packet reaches them, and the caller removes them. The holder's name, and whether the host addresses overlap, are read from
/// the whole table.
fn refuse_held(
    family: Family,
    intents: &[PortForwards],
    before: &Table,
    is_there: IsThere,
) -> Result<Vec<Displaced>, IptablesError> {
    let may_be_held =
        |intent: &PortForwards| holders::may_be_held(before, &rules::wanted(intent).chain(before), intent);
    if before.has_chain(DNAT) && !of_family(intents, family).into_iter().any(may_be_held) {
        return Ok(Vec::new());
    }
    free(family, intents, is_there)
}

/// Fails if one of the ports has a holder; but one that had a link and is gone is removed, and returned.
pub(super) fn free(
    family: Family,
    intents: &[PortForwards],
    is_there: IsThere,
) -> Result<Vec<Displaced>, IptablesError> {
    let evict = |table: &mut Table| {
        let of = |intent| holders::holders(table, &rules::wanted(intent).chain(table), intent);
        let holders: Vec<Holder> = of_family(intents, family).into_iter().flat_map(of).collect();
        let yields = |holder: &Holder| intent::Holder { key: &holder.key, link: holder.link }.yields_port(is_there);
        if let Some(holder) = holders.iter().find(|holder| !yields(holder)) {
            return Err(holder.refuses());
        }
        let mut chains: Vec<String> = holders.iter().map(|holder| holder.chain.clone()).collect();
        chains.sort_unstable();
        chains.dedup();
        if !chains.is_empty() {
            table.remove_chains(&chains);
        }
        Ok(holders.into_iter().map(|holder| Displaced { holder: holder.name, ports: holder.ports }).collect())
    };
    try_change(|| Reading::for_removal(Tools::of(family), CHAINS.table, || true), evict)
}

/// Adds what the table lacks. Where the tool refuses, a chain of another program may be the reason.
fn complete(family: Family, intents: &[PortForwards]) -> Result<(), IptablesError> {
    let mut reading = Reading::of(Tools::of(family), CHAINS.table)?;
    let mut external = of_family(intents, family).into_iter().filter_map(rules::external_chain);
    let missing = external.find(|chain| !reading.table.has_chain(chain)).map(str::to_owned);
    wanted(intents, family).iter().for_each(|wanted| wanted.complete(&mut reading.table));
    match (reading.apply(), missing) {
        (Err(error), Some(chain)) if error.is_refusal() => {
            Err(IptablesError::NoMarkChain { chain, tool: command(family) })
        }
        (outcome, _) => outcome,
    }
}

/// What `family` lacks of the intents' ports and skeleton.
pub(super) fn check(family: Family, intents: &[PortForwards]) -> Result<PortsCheck, IptablesError> {
    let tools = Tools::of(family);
    let table = Reading::of(tools, CHAINS.table)?.table;
    let made_by_go = |intent: &PortForwards| CHAINS.made_by_go(&table, &intent.owner);
    let intents = of_family(intents, family);
    let wanted = |intent: &&PortForwards| {
        if made_by_go(intent) {
            return rules::wanted_singly(intent);
        }
        let wanted = rules::wanted(intent);
        // Addresses that ADD found by itself may be others by now.
        let there = rules::excluded(&table, &wanted.present_chain(&table));
        if !intent.exclude.is_empty() || there.is_empty() {
            return wanted;
        }
        rules::wanted(&PortForwards { exclude: there, ..(*intent).clone() })
    };
    let differences = owned::check(tools, &table, intents.iter().map(wanted))?;
    Ok(PortsCheck { differences, made_by_go: intents.iter().all(|intent| made_by_go(intent)) })
}
