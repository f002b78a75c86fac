//! CHECK: the plan compared with what the kernel has.

use std::collections::{HashMap, HashSet};

use cni_plugin::Difference;
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, Cmp, ExpressionAttribute, Expressions, Immediate, ListAttribute, Lookup, Meta,
    NfTablesMessage, Payload, RuleAttribute, RuleMessage, TableAttribute, TableFlags, TableMessage,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner};

use super::answer::Raw;
use super::claims;
use super::comment::holder;
use super::comment::{same_container, same_owner};
use super::element::{self, Element, Found, Value};
use super::error::{NftError, absent};
use super::frame::{Base, Chain, Frame, Rule, TableId};
use super::plan::Plan;
use super::portkeys;
use super::set::Set;
use super::transport::Socket;
use rustix::io::Errno;

/// A rule as the kernel lists it.
pub(super) type RuleExpressions = Vec<ListAttribute<ExpressionAttribute>>;

/// Everything in which the kernel's rule set differs from `plan`.
pub(super) fn check(socket: &Socket, plan: &Plan) -> Result<Vec<Difference>, NftError> {
    let mut differences = Vec::new();
    let mut sound = HashSet::new();
    for frame in &plan.frames {
        differences.extend(check_table(socket, frame.table)?);
        for set in &frame.sets {
            check_set(socket, frame, set, &mut differences)?;
        }
        for chain in &frame.chains {
            check_chain(socket, frame.table, chain, &mut differences)?;
        }
    }
    for (table, chain) in plan.chains.iter().chain(&plan.own_chains) {
        if sound.insert((table.to_string(), &chain.name)) {
            check_chain(socket, *table, chain, &mut differences)?;
        }
    }
    let keys = plan.elements.iter().map(|element| (element.set, element.key.as_slice()));
    let found = element::look_up(socket, keys)?;
    let (mut left, mut claimed) = (HashSet::new(), Vec::new());
    for (wanted, found) in plan.elements.iter().zip(found) {
        let is_siblings = |found: &Found| {
            !same_owner(&found.comment, &wanted.comment) && same_container(&found.comment, &wanted.comment)
        };
        claimed.extend((portkeys::is_port(wanted.set) && found.as_ref().is_some_and(is_siblings)).then_some(wanted));
        if found.as_ref().is_some_and(|found| !same_owner(&found.comment, &wanted.comment)) {
            left.insert((wanted.set.table, &wanted.key));
        }
        if !(portkeys::is_condition(wanted.set) && left.contains(&(wanted.set.table, &wanted.key))) {
            differences.extend(check_element(wanted, found));
        }
    }
    for claim in claims::wanted(socket, &claimed)? {
        let found = claim.found.map(|value| Found { value, comment: claim.element.comment.clone(), key: Vec::new() });
        differences.extend(check_element(&claim.element, found));
    }
    differences.extend(check_index(socket, plan)?);
    Ok(differences)
}

/// Each owner must be in the index, or DEL would not find what it has. How much that is, the elements themselves tell.
fn check_index(socket: &Socket, plan: &Plan) -> Result<Vec<Difference>, NftError> {
    let keys = plan.owners.iter().map(|owner| (owner.set, owner.key.as_slice()));
    let found = element::look_up(socket, keys)?;
    let missing = plan.owners.iter().zip(found).filter(|(_, found)| found.is_none());
    Ok(missing.map(|(owner, _)| Difference::missing(owner.element(0).name)).collect())
}

/// What another attachment of the same container holds is served by that.
fn check_element(wanted: &Element, found: Option<Found>) -> Option<Difference> {
    let Some(found) = found else { return Some(Difference::missing(&wanted.name)) };
    if !same_owner(&found.comment, &wanted.comment) {
        if same_container(&found.comment, &wanted.comment) {
            return None;
        }
        let ours = format!("held by {}", holder(&wanted.comment));
        return Some(Difference::new(&wanted.name, ours, format!("held by {}", holder(&found.comment))));
    }
    (found.value != wanted.value).then(|| Difference::new(&wanted.name, show(&wanted.value), show(&found.value)))
}

/// A value in words: a chain, or address and port as bytes.
fn show(value: &Value) -> String {
    match value {
        Value::Nothing => "an element without a value".to_owned(),
        Value::Goto(chain) => format!("goto {chain}"),
        Value::Data(bytes) => match bytes.len() {
            8 => format!("{}:{}", show_address(&bytes[..4]), show_port(&bytes[4..])),
            20 => format!("[{}]:{}", show_address(&bytes[..16]), show_port(&bytes[16..])),
            _ => format!("the bytes {bytes:02x?}"),
        },
    }
}

fn show_address(bytes: &[u8]) -> String {
    let v4 = bytes.try_into().map(|b: [u8; 4]| std::net::IpAddr::from(b));
    let v6 = bytes.try_into().map(|b: [u8; 16]| std::net::IpAddr::from(b));
    v4.or(v6).map_or_else(|_| format!("{bytes:02x?}"), |address| address.to_string())
}

fn show_port(bytes: &[u8]) -> u16 {
    bytes.first_chunk().map_or(0, |port| u16::from_be_bytes(*port))
}

/// The kernel keeps a dormant table and asks it nothing. One that is missing shows in what is in it.
fn check_table(socket: &Socket, table: TableId) -> Result<Option<Difference>, NftError> {
    match socket.ask("look for a table", vec![table.question_itself()])?.pop() {
        Some(Ok(found)) => Ok(is_dormant(&found).then(|| {
            let wakes = format!("flags dormant; `nft add table {table}` wakes it");
            Difference::new(format!("nftables table {table}"), "a table at work", wakes)
        })),
        Some(Err(error)) if error.errno() != Some(Errno::NOENT) => Err(error),
        _ => Ok(None),
    }
}

/// True if the answer to [`Frame::set_question`] says that there is no such set. One that is something else than ours is an
/// error.
pub(super) fn lacks_set(table: TableId, set: &Set, answer: Result<Raw, NftError>) -> Result<bool, NftError> {
    let raw = match answer {
        Ok(raw) => raw,
        refused => return absent(refused),
    };
    match raw.decode("look for a set")? {
        NetfilterMessageInner::NfTables(NfTablesMessage::NewSet(found)) if !set.is_like(&found.attributes) => {
            Err(NftError::Foreign {
                thing: format!("set {table} {}", set.name),
                expected: "the type of this plugin, without a size or timeouts".to_owned(),
                found: "another".to_owned(),
            })
        }
        _ => Ok(false),
    }
}

/// True if the answer to [`TableId::question_itself`] is a dormant table.
pub(super) fn is_dormant(answer: &NetfilterMessageInner) -> bool {
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(TableMessage { attributes })) = answer else {
        return false;
    };
    let says = |a: &TableAttribute| matches!(a, TableAttribute::Flags(flags) if flags.contains(TableFlags::Dormant));
    attributes.iter().any(says)
}

fn check_set(socket: &Socket, frame: &Frame, set: &Set, into: &mut Vec<Difference>) -> Result<(), NftError> {
    let thing = format!("nftables set {} {}", frame.table, set.name);
    for answer in socket.ask("look for a set", vec![frame.set_question(set)])? {
        match answer {
            Ok(NetfilterMessageInner::NfTables(NfTablesMessage::NewSet(found))) => {
                if !set.is_like(&found.attributes) {
                    into.push(Difference::new(&thing, "the type that this plugin uses", "another type"));
                }
            }
            Err(error) if error.errno() == Some(Errno::NOENT) => into.push(Difference::missing(&thing)),
            Err(error) => return Err(error),
            Ok(_) => return Err(NftError::Answer { what: thing, why: "not a set".to_owned() }),
        }
    }
    Ok(())
}

fn check_chain(socket: &Socket, table: TableId, chain: &Chain, into: &mut Vec<Difference>) -> Result<(), NftError> {
    let thing = format!("nftables chain {table} {}", chain.name);
    for answer in socket.ask("look for a chain", vec![Chain::question(table, &chain.name)])? {
        match answer {
            Ok(NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(found))) => {
                if let Some(base) = chain.base
                    && !base.matches(&found.attributes)
                {
                    into.push(Difference::new(&thing, base, describe(&found.attributes)));
                }
            }
            Err(error) if error.errno() == Some(Errno::NOENT) => {
                into.push(Difference::missing(&thing));
                return Ok(());
            }
            Err(error) => return Err(error),
            Ok(_) => return Err(NftError::Answer { what: thing, why: "not a chain".to_owned() }),
        }
    }
    check_rules(&thing, &chain.rules, &rules_of(socket, table, &chain.name)?, into);
    Ok(())
}

fn describe(attributes: &[ChainAttribute]) -> String {
    Base::words(attributes).unwrap_or_else(|| "not attached to a hook".to_owned())
}

fn rules_of(socket: &Socket, table: TableId, chain: &str) -> Result<Vec<RuleExpressions>, NftError> {
    rules_of_any(socket, table.family.number().into(), table.name, chain)
}

/// The rules of anybody's chain, in order.
pub(super) fn rules_of_any(
    socket: &Socket,
    family: u8,
    table: &str,
    chain: &str,
) -> Result<Vec<RuleExpressions>, NftError> {
    let attributes = vec![RuleAttribute::Table(table.to_owned()), RuleAttribute::Chain(chain.to_owned())];
    let message = NfTablesMessage::GetRule(RuleMessage { attributes });
    let question = NetfilterMessage::new(NetfilterHeader::new(family.into(), 0, 0), message);
    let what = format!("list the rules of {table} {chain}");
    socket.dump_state(&what, &question, |rules: &mut Vec<RuleExpressions>, message| {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = message.decode(&what)? else {
            return Ok(());
        };
        rules.extend(rule.attributes.into_iter().find_map(|attribute| match attribute {
            RuleAttribute::Expressions(list) => Some(list),
            _ => None,
        }));
        Ok(())
    })
}

/// True if the chains of a frame have the rules that they should, and no others: one question, whatever is in its sets.
pub(super) fn has_its_rules(socket: &Socket, frame: &Frame) -> Result<bool, NftError> {
    let attributes = vec![RuleAttribute::Table(frame.table.name.to_owned())];
    let question = frame.table.question(NfTablesMessage::GetRule(RuleMessage { attributes }));
    let what = format!("list the rules of {}", frame.table);
    let found = socket.dump_state(&what, &question, |found: &mut HashMap<String, Vec<RuleExpressions>>, message| {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = message.decode(&what)? else {
            return Ok(());
        };
        let (mut chain, mut expressions) = (None, None);
        for attribute in rule.attributes {
            match attribute {
                RuleAttribute::Chain(name) => chain = Some(name),
                RuleAttribute::Expressions(list) => expressions = Some(list),
                _ => {}
            }
        }
        found.entry(chain.unwrap_or_default()).or_default().extend(expressions);
        Ok(())
    })?;
    let mut differences = Vec::new();
    for chain in &frame.chains {
        let there = found.get(&chain.name).map(Vec::as_slice).unwrap_or_default();
        check_rules(&chain.name, &chain.rules, there, &mut differences);
    }
    Ok(differences.is_empty())
}

/// The rules must be these, in this order, and no others.
fn check_rules(chain: &str, wanted: &[Rule], found: &[RuleExpressions], into: &mut Vec<Difference>) {
    let places: Vec<Option<usize>> =
        wanted.iter().map(|rule| found.iter().position(|other| same_rule(&rule.expressions, other))).collect();
    let mut last = None;
    for (rule, place) in wanted.iter().zip(&places) {
        let thing = format!("rule {:?} of {chain}", rule.text);
        match place {
            None => into.push(Difference::missing(thing)),
            Some(_) if *place < last => into.push(Difference::new(thing, "in its place", "behind a later one")),
            Some(_) => last = *place,
        }
    }
    let strange = (0..found.len()).filter(|index| !places.contains(&Some(*index))).count();
    if strange > 0 {
        let thing = format!("rules of {chain}");
        into.push(Difference::new(thing, format!("{} of ours", wanted.len()), format!("{strange} others too")));
    }
}

/// True if the kernel's listing says what we said; it adds attributes with default values.
fn same_rule(wanted: &[Expressions], found: &[ListAttribute<ExpressionAttribute>]) -> bool {
    let found: Vec<_> = found.iter().filter_map(data_of).collect();
    wanted.len() == found.len() && wanted.iter().zip(found).all(|(wanted, found)| same_expression(wanted, found))
}

/// True if `wanted` is among the rule's expressions.
pub(super) fn has(rule: &RuleExpressions, wanted: &Expressions) -> bool {
    rule.iter().filter_map(data_of).any(|found| same_expression(wanted, found))
}

/// The expression in an entry of a rule.
pub(super) fn data_of(entry: &ListAttribute<ExpressionAttribute>) -> Option<&Expressions> {
    let ListAttribute::Element(attributes) = entry else { return None };
    attributes.iter().find_map(|a| if let ExpressionAttribute::Data(data) = a { Some(data) } else { None })
}

fn all_in<T: PartialEq>(wanted: &[T], found: &[T]) -> bool {
    wanted.iter().all(|attribute| found.contains(attribute))
}

fn same_expression(wanted: &Expressions, found: &Expressions) -> bool {
    match (wanted, found) {
        (Expressions::Bitwise(a), Expressions::Bitwise(b)) => all_in::<Bitwise>(a, b),
        (Expressions::Cmp(a), Expressions::Cmp(b)) => all_in::<Cmp>(a, b),
        (Expressions::Immediate(a), Expressions::Immediate(b)) => all_in::<Immediate>(a, b),
        (Expressions::Lookup(a), Expressions::Lookup(b)) => {
            // Flags say "not in the set": either both say so, or none.
            all_in(a, b) && b.iter().all(|attribute| !matches!(attribute, Lookup::Flags(1..)) || a.contains(attribute))
        }
        (Expressions::Meta(a), Expressions::Meta(b)) => all_in::<Meta>(a, b),
        (Expressions::Payload(a), Expressions::Payload(b)) => all_in::<Payload>(a, b),
        (
            Expressions::Other { expression_type: name, attributes: a },
            Expressions::Other { expression_type: other, attributes: b },
        ) => name == other && all_in(a, b),
        _ => false,
    }
}
