//! CHECK: the plan compared with what the kernel has.

use std::collections::HashMap;
use std::net::SocketAddr;

use cni_plugin::Difference;
use netlink_packet_netfilter::nftables::NfTablesMessage;

use super::comment::{holder, share_name};
use super::diff::found;
use super::plan::{Holder, Plan};
use super::share::{self, Joined};
use super::waitlist;
use crate::nftables::ruleset::skeleton::is_dormant;
use crate::nftables::ruleset::{Chain, Element, Set, Skeleton, Value, data, element, print, rule};
use crate::nftables::wire::{NftError, Socket, Table, TableFamily};

/// Everything in which the kernel's rule set differs from `plan`.
pub(crate) fn check(socket: &Socket, plan: &Plan) -> Result<Vec<Difference>, NftError> {
    let mut differences = Vec::new();
    for skeleton in &plan.skeletons {
        check_skeleton(socket, skeleton, &mut differences)?;
    }
    for (table, chain) in plan.shared_chains.iter().chain(&plan.own_chains) {
        let listed = socket.find("look for a chain", table.chain_request(&chain.name))?;
        check_chain(socket, *table, chain, listed, &mut differences)?;
    }
    let keys = plan.elements.iter().map(|element| &element.key).chain(plan.owners.iter().map(|owner| &owner.key));
    let mut found = element::look_up(socket, keys)?;
    let entries = found.split_off(plan.elements.len());
    let shares = share::look_up(socket, &plan.maybe_shared(&found))?;
    let mut awaited = Vec::new();
    let mut joined = Vec::new();
    for (wanted, holder) in plan.by_holder(found, &shares) {
        if matches!(holder, Holder::Own(_) | Holder::Partner) {
            let share = plan.share_of(wanted, &shares);
            joined.extend(share.map(|(share, name)| (wanted.key.set.table, share.joined(wanted, name))));
        }
        match holder {
            Holder::Own(found) => differences.extend(compare(wanted, found.as_ref().map(|found| &found.value))),
            Holder::Sibling(waitlist) => awaited.extend(waitlist.map(|waitlist| (waitlist, wanted))),
            Holder::Other(comment) => differences.push(held(wanted, &comment)),
            Holder::OfCompanion | Holder::Partner => {}
        }
    }
    for (table, joined) in joined {
        check_member(socket, table, &joined, &mut differences)?;
    }
    for wanted in waitlist::wanted(socket, &awaited)? {
        differences.extend(compare(&wanted.entry, wanted.found.as_ref()));
    }
    // DEL does not find what an owner has that is not in the index. How much that is, the elements themselves tell.
    let unregistered = plan.owners.iter().zip(entries).filter(|(_, found)| found.is_none());
    differences.extend(unregistered.map(|(owner, _)| Difference::missing(owner.entry(0).name)));
    Ok(differences)
}

/// The owner's member, the choice, and the chain that chooses.
fn check_member(
    socket: &Socket,
    table: Table<'_>,
    Joined { member, choice, chain, .. }: &Joined,
    into: &mut Vec<Difference>,
) -> Result<(), NftError> {
    into.extend(compare(&member.element, member.found.as_ref()));
    into.extend(compare(&choice.element, choice.found.as_ref()));
    if !choice.is_there {
        let named = |element: &Element| share_name(&element.comment).unwrap_or_default().to_owned();
        let is_renamed = choice.found.as_ref() == Some(&choice.element.value);
        let other = is_renamed.then(|| format!("share {:?}", named(&choice.element)));
        into.extend(other.map(|wanted| Difference::new(&choice.element.name, wanted, "another share")));
        return Ok(());
    }
    let listed = socket.find("look for a chain", table.chain_request(&chain.name))?;
    check_chain(socket, table, chain, listed, into)
}

fn check_skeleton(socket: &Socket, skeleton: &Skeleton, into: &mut Vec<Difference>) -> Result<(), NftError> {
    let table = skeleton.table;
    let mut answers = socket.ask("look for a table", skeleton.requests())?.into_iter().map(found);
    // In the order of [`Skeleton::requests`]. That a table is missing shows in what should be in it.
    let mut next = || answers.next().unwrap_or(Ok(None));
    if next()?.as_ref().is_some_and(is_dormant) {
        let found = format!("flags dormant; `nft add table {table}` activates it");
        into.push(Difference::new(format!("nftables table {table}"), "an active table", found));
    }
    for set in &skeleton.sets {
        into.extend(check_set(table, set, next()?.as_ref()));
    }
    for chain in &skeleton.chains {
        check_chain(socket, table, chain, next()?, into)?;
    }
    Ok(())
}

fn check_set(table: Table<'_>, set: &Set, found: Option<&NfTablesMessage>) -> Option<Difference> {
    let thing = format!("nftables set {table} {}", set.name);
    match found {
        None => Some(Difference::missing(thing)),
        Some(NfTablesMessage::NewSet(listed)) if set.is_like(listed) => None,
        Some(_) => Some(Difference::new(thing, "the type that this plugin uses", "another type")),
    }
}

fn check_chain(
    socket: &Socket,
    table: Table<'_>,
    chain: &Chain,
    found: Option<NfTablesMessage>,
    into: &mut Vec<Difference>,
) -> Result<(), NftError> {
    let thing = format!("nftables chain {table} {}", chain.name);
    let Some(found) = found else {
        into.push(Difference::missing(thing));
        return Ok(());
    };
    if let NfTablesMessage::NewChain(listed) = &found
        && let (Some(base), Some(found)) = (chain.base, chain.misplaced(listed))
    {
        into.push(Difference::new(&thing, base, found));
    }
    let listed = rule::list(socket, table, Some(&chain.name))?;
    check_rules(table.family, &thing, chain, &listed.iter().collect::<Vec<_>>(), into);
    Ok(())
}

/// True if the chains of a skeleton have the rules that they should, and no others: one request, whatever is in its sets.
pub(crate) fn has_its_rules(socket: &Socket, skeleton: &Skeleton) -> Result<bool, NftError> {
    let listed = rule::list(socket, skeleton.table, None)?;
    let mut by_chain: HashMap<&str, Vec<&rule::ListedRule>> = HashMap::new();
    listed.iter().for_each(|rule| by_chain.entry(&rule.chain).or_default().push(rule));
    let mut differences = Vec::new();
    for chain in &skeleton.chains {
        let listed = by_chain.remove(chain.name.as_str()).unwrap_or_default();
        check_rules(skeleton.table.family, &chain.name, chain, &listed, &mut differences);
    }
    Ok(differences.is_empty())
}

/// The rules must be the chain's, in this order, and no others.
fn check_rules(
    family: TableFamily,
    thing: &str,
    chain: &Chain,
    listed: &[&rule::ListedRule],
    into: &mut Vec<Difference>,
) {
    let place = |wanted: &rule::Rule| listed.iter().position(|other| rule::same(wanted, &other.expressions));
    let places: Vec<Option<usize>> = chain.rules.iter().map(place).collect();
    let mut last = None;
    for (rule, place) in chain.rules.iter().zip(&places) {
        let of_chain = || format!("rule {:?} of {thing}", print::rule(family, rule));
        match place {
            None => into.push(Difference::missing(of_chain())),
            Some(_) if *place < last => {
                into.push(Difference::new(of_chain(), "before the rules that follow", "after one of them"));
            }
            Some(_) => last = *place,
        }
    }
    let others = (0..listed.len()).filter(|index| !places.contains(&Some(*index))).count();
    if others > 0 {
        let expected = format!("only {} of this plugin", chain.rules.len());
        into.push(Difference::new(format!("rules of {thing}"), expected, format!("{others} more")));
    }
}

fn held(wanted: &Element, by: &str) -> Difference {
    let held_by = |comment: &str| format!("held by {}", holder(comment));
    Difference::new(&wanted.name, held_by(&wanted.comment), held_by(by))
}

fn compare(wanted: &Element, found: Option<&Value>) -> Option<Difference> {
    let Some(found) = found else { return Some(Difference::missing(&wanted.name)) };
    (*found != wanted.value).then(|| Difference::new(&wanted.name, show(&wanted.value), show(found)))
}

/// A value in words: a chain, or an address with a port.
fn show(value: &Value) -> String {
    let socket_address = |bytes: &[u8]| {
        let (address, port) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        Some(SocketAddr::new(data::read_address(address)?, data::read_port(port)?))
    };
    match value {
        Value::Nothing => "an element without a value".to_owned(),
        Value::Goto(chain) => format!("goto {chain}"),
        Value::Data(bytes) => {
            socket_address(bytes).map_or_else(|| format!("the bytes {bytes:02x?}"), |target| target.to_string())
        }
    }
}
