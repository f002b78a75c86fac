//! What another program's rules do to a new connection of a container: whether they drop it for certain.
//!
//! What can't be understood gets the benefit of the doubt: a jump, a lookup, a verdict of a map or of a program may lead
//! to an accept, and a match on something unknown may not be satisfied.

use std::net::IpAddr;

use cni_plugin::Family;
use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, Expressions, Lookup, Meta, MetaKey, Operator, Payload, Register, Verdict,
};

use crate::nftables::ruleset::expression::{
    CT_STATE, DROP, NETWORK, Side, TRANSPORT, address_offset, bytes_of, verdict_in,
};
use crate::nftables::ruleset::{Rule, data};
use crate::nftables::wire::{NftError, TableFamily, part};

/// `NF_CT_STATE_BIT(IP_CT_NEW)`.
const NEW: u8 = 1 << 3;

/// The keys of a set.
pub(crate) type Keys = Vec<Vec<u8>>;

/// The first packet of a connection from a container to another host.
pub(crate) struct Connection<'a> {
    /// The container's; `None` stands for any IPv4 address.
    pub(crate) address: Option<IpAddr>,
    /// True if the packet has our mark by then.
    pub(crate) is_marked: bool,
    /// The keys of a set or map of the rules' table.
    pub(crate) keys: &'a dyn Fn(&str) -> Result<Keys, NftError>,
}

/// What a rule does to it.
enum Outcome {
    /// Nothing for certain.
    Passes,
    /// It may be accepted, here or where the rule leads.
    MayBeAdmitted,
    Dropped,
}

/// What the register holds that a rule loaded last.
enum Loaded {
    /// The connection's state: the bits that were not masked away.
    State(u8),
    Incoming,
    Family,
    Mark,
    /// So many bytes of the source address, as far as they weren't masked away.
    Source(Vec<u8>),
    /// Part of what a protocol above IP says: such a rule is about some connections only.
    Above,
    Other,
}

/// True if these rules of a base chain, or its policy after them, drop the connection for certain.
pub(crate) fn drops(rules: &[Rule], policy_drops: bool, of: &Connection<'_>) -> Result<bool, NftError> {
    for rule in rules {
        match evaluate(rule, policy_drops, of)? {
            Outcome::Passes => {}
            Outcome::MayBeAdmitted => return Ok(false),
            Outcome::Dropped => return Ok(true),
        }
    }
    Ok(policy_drops)
}

fn evaluate(rule: &[Expressions], policy_drops: bool, of: &Connection<'_>) -> Result<Outcome, NftError> {
    let (mut loaded, mut surely) = (Loaded::Other, true);
    for expression in rule {
        match verdict(expression, policy_drops) {
            Some(Outcome::Dropped) if !surely => return Ok(Outcome::Passes),
            Some(outcome) => return Ok(outcome),
            None => {}
        }
        match satisfied(expression, &mut loaded, of)? {
            Some(true) => {}
            Some(false) => return Ok(Outcome::Passes),
            None if is_verdict_map(expression) => return Ok(Outcome::MayBeAdmitted),
            None => surely = false,
        }
    }
    Ok(Outcome::Passes)
}

/// What becomes of a packet that gets as far as this expression, if it ends here.
fn verdict(expression: &Expressions, policy_drops: bool) -> Option<Outcome> {
    match expression {
        Expressions::Immediate(immediate) => match verdict_in(immediate)?.0 {
            Verdict::Continue => None,
            Verdict::Other(DROP) => Some(Outcome::Dropped),
            // From a base chain, a return leads to the policy.
            Verdict::Return if policy_drops => Some(Outcome::Dropped),
            _ => Some(Outcome::MayBeAdmitted),
        },
        Expressions::Other { expression_type, .. } => match expression_type.as_str() {
            "reject" => Some(Outcome::Dropped),
            "queue" => Some(Outcome::MayBeAdmitted),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the connection satisfies the expression; `None` if that cannot be determined. Expressions that only load or
/// count are always satisfied.
fn satisfied(expression: &Expressions, loaded: &mut Loaded, of: &Connection<'_>) -> Result<Option<bool>, NftError> {
    match expression {
        Expressions::Cmp(cmp) => return Ok(compare(loaded, cmp, of)),
        Expressions::Lookup(lookup) => return look_up(loaded, lookup, of),
        Expressions::Meta(meta) => *loaded = load_meta(meta),
        Expressions::Payload(payload) => *loaded = load_payload(payload, of.address),
        Expressions::Bitwise(bitwise) => apply_mask(loaded, bitwise),
        Expressions::Immediate(_) => {}
        Expressions::Other { expression_type, attributes } => match expression_type.as_str() {
            "counter" | "log" | "notrack" => {}
            "ct" => *loaded = load_ct(attributes),
            _ => {
                *loaded = Loaded::Other;
                return Ok(None);
            }
        },
        _ => return Ok(None),
    }
    Ok(Some(true))
}

fn is_verdict_map(expression: &Expressions) -> bool {
    let leads = Lookup::DestinationRegister(Register::Verdict);
    matches!(expression, Expressions::Lookup(lookup) if lookup.contains(&leads))
}

fn load_ct(attributes: &[DefaultNla]) -> Loaded {
    // NFTA_CT_KEY
    let is_state = |nla: &DefaultNla| {
        let mut bytes = vec![0; nla.value_len()];
        nla.emit_value(&mut bytes);
        nla.kind() == 2 && bytes == CT_STATE.to_be_bytes()
    };
    if attributes.iter().any(is_state) { Loaded::State(u8::MAX) } else { Loaded::Other }
}

fn load_meta(meta: &[Meta]) -> Loaded {
    match part!(meta, Meta::Key) {
        Some(MetaKey::Iifname) => Loaded::Incoming,
        Some(MetaKey::Nfproto) => Loaded::Family,
        Some(MetaKey::Mark) => Loaded::Mark,
        Some(MetaKey::L4Proto) => Loaded::Above,
        _ => Loaded::Other,
    }
}

fn load_payload(payload: &[Payload], address: Option<IpAddr>) -> Loaded {
    let numbers = [part!(payload, Payload::Base), part!(payload, Payload::Offset), part!(payload, Payload::Len)];
    let [base, offset, length] = numbers.map(|number| number.copied().unwrap_or(0));
    let source = address.filter(|address| offset == address_offset(Family::of(*address), Side::Source));
    match (base, source, usize::try_from(length)) {
        (TRANSPORT, ..) => Loaded::Above,
        (NETWORK, Some(address), Ok(length)) if length <= data::address(address).len() => {
            let mut bytes = data::address(address);
            bytes.truncate(length);
            Loaded::Source(bytes)
        }
        _ => Loaded::Other,
    }
}

fn apply_mask(loaded: &mut Loaded, bitwise: &[Bitwise]) {
    let mask = part!(bitwise, Bitwise::Mask).and_then(bytes_of);
    match (mask, loaded) {
        // In host byte order.
        (Some(mask), Loaded::State(bits)) => *bits &= u32_of(mask).map_or(u8::MAX, |mask| mask.to_le_bytes()[0]),
        (Some(mask), Loaded::Source(bytes)) => bytes.iter_mut().zip(mask).for_each(|(byte, mask)| *byte &= mask),
        (Some(_), _) => {}
        (None, loaded) => *loaded = Loaded::Other,
    }
}

fn u32_of(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// Whether the connection satisfies the comparison; `None` if that cannot be determined.
fn compare(loaded: &Loaded, cmp: &[Cmp], of: &Connection<'_>) -> Option<bool> {
    let equal = match part!(cmp, Cmp::Op)? {
        Operator::Equal => true,
        Operator::NotEqual => false,
        _ => return None,
    };
    let value = part!(cmp, Cmp::Data).and_then(bytes_of)?;
    let same = match loaded {
        Loaded::State(bits) => u32_of(value)? == u32::from(bits & NEW),
        // What a rule says about some protocol or port decides nothing about the others.
        Loaded::Above => return if equal { Some(false) } else { None },
        Loaded::Incoming if value.starts_with(b"lo\0") => false,
        Loaded::Family => *value == [TableFamily::from(of.address.map_or(Family::V4, Family::of)).number()],
        Loaded::Mark if !of.is_marked && value.iter().any(|byte| *byte != 0) => false,
        Loaded::Source(bytes) => bytes == value,
        _ => return None,
    };
    Some(same == equal)
}

/// The same for a lookup in a set.
fn look_up(loaded: &Loaded, lookup: &[Lookup], of: &Connection<'_>) -> Result<Option<bool>, NftError> {
    let name = part!(lookup, Lookup::Set);
    let inverted = lookup.iter().any(|attribute| matches!(attribute, Lookup::Flags(1..)));
    match (loaded, name) {
        (Loaded::Above, _) if !inverted => Ok(Some(false)),
        (Loaded::State(bits), Some(name)) => {
            let is_new = |key: &Vec<u8>| u32_of(key).is_none_or(|key| key == u32::from(bits & NEW));
            let found = (of.keys)(name)?.iter().any(is_new);
            // A map that knows the state has a verdict for it, which may be any.
            Ok(if found == inverted { Some(false) } else { None })
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nftables::ruleset::expression as expr;
    use netlink_packet_netfilter::nftables::{DataAttribute, Immediate, VerdictAttribute};

    const MARK: u32 = 1 << 12;

    fn other(name: &str) -> Expressions {
        Expressions::Other { expression_type: name.to_owned(), attributes: Vec::new() }
    }

    fn code(code: Verdict) -> Expressions {
        let verdict = DataAttribute::Verdict(vec![VerdictAttribute::Code(code)]);
        Expressions::Immediate(vec![Immediate::DestinationRegister(Register::Verdict), Immediate::Data(verdict)])
    }

    /// `ct state` into slot 0.
    fn state() -> Expressions {
        expr::is_reply_or_related()[0].clone()
    }

    fn is(key: MetaKey, op: Operator, value: &[u8]) -> Vec<Expressions> {
        vec![expr::meta(key, 0), expr::compare(op, value)]
    }

    fn interface(name: &str) -> Vec<Expressions> {
        is(MetaKey::Iifname, Operator::Equal, &data::interface(name))
    }

    fn from(address: &str, prefix: u8) -> Vec<Expressions> {
        expr::address_in(Side::Source, address.parse().unwrap(), prefix)
    }

    fn from_port(port: u16) -> Vec<Expressions> {
        vec![expr::port(Side::Destination, 0), expr::compare(Operator::Equal, port.to_be_bytes())]
    }

    /// Whether these rules and a policy drop a new connection from `address`, whose packets have the mark.
    fn is_dropped(rules: &[Rule], policy_drops: bool, address: &str) -> bool {
        let new = 8u32.to_ne_bytes().to_vec();
        let established = 2u32.to_ne_bytes().to_vec();
        let keys = |set: &str| {
            Ok(if set == "with new" { vec![established.clone(), new.clone()] } else { vec![established.clone()] })
        };
        let of = Connection { address: address.parse().ok(), is_marked: true, keys: &keys };
        drops(rules, policy_drops, &of).unwrap()
    }

    /// A rule that accepts, in a chain that drops the rest: true if the connection surely doesn't match.
    fn never_matches(condition: Vec<Expressions>, address: &str) -> bool {
        is_dropped(&[[condition, vec![expr::accept()]].concat()], true, address)
    }

    /// A rule that drops, in a chain that accepts the rest: true if the connection surely matches.
    fn always_matches(condition: Vec<Expressions>, address: &str) -> bool {
        is_dropped(&[[condition, vec![expr::drop()]].concat()], false, address)
    }

    #[test]
    fn the_first_verdict_counts_and_then_the_policy() {
        for (rules, dropped_by_default, dropped_in_spite) in [
            (vec![], true, false),
            (vec![vec![expr::drop()]], true, true),
            (vec![vec![other("counter"), other("reject")]], true, true),
            (vec![vec![expr::accept()], vec![expr::drop()]], false, false),
            (vec![vec![expr::drop()], vec![expr::accept()]], true, true),
            // From a base chain, a return leads to the policy.
            (vec![vec![expr::return_()]], true, false),
            (vec![vec![code(Verdict::Continue)]], true, false),
            // What the chain does is unknown, and so is the program behind a queue.
            (vec![vec![expr::jump("other")]], false, false),
            (vec![vec![expr::goto("other")], vec![expr::drop()]], false, false),
            (vec![vec![other("queue")]], false, false),
        ] {
            assert_eq!(is_dropped(&rules, true, "10.1.0.2"), dropped_by_default, "{rules:?}");
            assert_eq!(is_dropped(&rules, false, "10.1.0.2"), dropped_in_spite, "{rules:?}");
        }
    }

    #[test]
    fn a_condition_holds_or_not_or_is_unknown() {
        let (v4, v6) = ("10.1.0.2", "fd00::2");
        let is_v6 = || expr::only(Family::V6).to_vec();
        let lookup = |set| vec![state(), expr::is_in(set)];
        for (condition, address, never, always) in [
            (expr::is_reply_or_related().to_vec(), v4, true, false),
            (interface("lo"), v4, true, false),
            (expr::negated(interface("lo")), v4, false, true),
            (interface("eth0"), v4, false, false),
            (is_v6(), v4, true, false),
            (is_v6(), v6, false, true),
            (from("10.1.0.0", 16), v4, false, true),
            (from("10.1.0.0", 20), v4, false, true),
            (from("10.2.0.0", 16), v4, true, false),
            (expr::negated(from("10.2.0.0", 20)), v4, false, true),
            (from("fd00::", 64), v6, false, true),
            (from("fd01::", 65), v6, true, false),
            // The connection may or may not be of this protocol or port.
            (from_port(22), v4, true, false),
            (expr::protocol_is(cni_plugin::Protocol::Tcp).to_vec(), v4, true, false),
            (expr::negated(from_port(22)), v4, false, false),
            (vec![other("unknown")], v4, false, false),
            (lookup("with new"), v4, false, false),
            (lookup("without"), v4, true, false),
        ] {
            assert_eq!(never_matches(condition.clone(), address), never, "{condition:?}");
            assert_eq!(always_matches(condition.clone(), address), always, "{condition:?}");
        }
    }

    #[test]
    fn the_mark_admits_only_where_it_has_been_set() {
        let rule = [expr::has_mark(MARK).to_vec(), vec![expr::accept()]].concat();
        for (is_marked, dropped) in [(true, false), (false, true)] {
            let of = Connection { address: None, is_marked, keys: &|_| Ok(Keys::new()) };
            assert_eq!(drops(std::slice::from_ref(&rule), true, &of).unwrap(), dropped);
        }
    }

    #[test]
    fn a_verdict_map_that_knows_the_state_may_admit() {
        let rule = |set| vec![state(), expr::verdict_of(set)];
        assert!(!is_dropped(&[rule("with new")], true, "10.1.0.2"));
        assert!(is_dropped(&[rule("without")], true, "10.1.0.2"));
    }
}
