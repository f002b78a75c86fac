//! What somebody else's rules do to a new connection of a container's: whether they surely drop it.
//!
//! Whatever can't be understood gets the benefit of the doubt: a jump, a lookup, a verdict of a map or of a program may lead
//! to an accept, and a match on something unknown may not be satisfied.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta, MetaKey, Operator, Payload, Register, Verdict,
    VerdictAttribute,
};

use super::error::NftError;
use super::expr::{Ip, octets};

/// `NF_DROP`.
const DROP: u32 = 0;
/// `NF_CT_STATE_BIT(IP_CT_NEW)`.
const NEW: u8 = 1 << 3;

/// The keys of a set.
pub(super) type Keys = Vec<Vec<u8>>;

/// The first packet of a connection from a container to somewhere else.
pub(super) struct Connection<'a> {
    /// The container; without, some IPv4 address.
    pub(super) address: Option<IpAddr>,
    /// True if the packet has our mark by then.
    pub(super) is_marked: bool,
    /// The keys of a set or map of the rules' table.
    pub(super) keys: &'a dyn Fn(&str) -> Result<Keys, NftError>,
}

/// What a rule does to it.
enum Fate {
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

/// True if these rules of a base chain, or its policy after them, surely drop the connection.
pub(super) fn drops(rules: &[Vec<&Expressions>], policy_drops: bool, of: &Connection<'_>) -> Result<bool, NftError> {
    for rule in rules {
        match fate(rule, policy_drops, of)? {
            Fate::Passes => {}
            Fate::MayBeAdmitted => return Ok(false),
            Fate::Dropped => return Ok(true),
        }
    }
    Ok(policy_drops)
}

fn fate(rule: &[&Expressions], policy_drops: bool, of: &Connection<'_>) -> Result<Fate, NftError> {
    let (mut loaded, mut surely) = (Loaded::Other, true);
    for expression in rule {
        match verdict(expression, policy_drops) {
            Some(Fate::Dropped) if !surely => return Ok(Fate::Passes),
            Some(fate) => return Ok(fate),
            None => {}
        }
        match satisfied(expression, &mut loaded, of)? {
            Some(true) => {}
            Some(false) => return Ok(Fate::Passes),
            None if is_verdict_map(expression) => return Ok(Fate::MayBeAdmitted),
            None => surely = false,
        }
    }
    Ok(Fate::Passes)
}

/// What becomes of a packet that gets as far as this expression, if it ends here.
fn verdict(expression: &Expressions, policy_drops: bool) -> Option<Fate> {
    match expression {
        Expressions::Immediate(immediate) => match code_of(immediate)? {
            Verdict::Continue => None,
            Verdict::Other(DROP) => Some(Fate::Dropped),
            // From a base chain, a return leads to the policy.
            Verdict::Return if policy_drops => Some(Fate::Dropped),
            _ => Some(Fate::MayBeAdmitted),
        },
        Expressions::Other { expression_type, .. } => match expression_type.as_str() {
            "reject" => Some(Fate::Dropped),
            "queue" => Some(Fate::MayBeAdmitted),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the connection satisfies the expression, if that can be told. What only loads or counts is satisfied always.
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

fn code_of(immediate: &[Immediate]) -> Option<Verdict> {
    immediate.iter().find_map(|attribute| match attribute {
        Immediate::Data(DataAttribute::Verdict(verdict)) => verdict.iter().find_map(|part| match part {
            VerdictAttribute::Code(code) => Some(*code),
            _ => None,
        }),
        _ => None,
    })
}

fn load_ct(attributes: &[DefaultNla]) -> Loaded {
    // NFTA_CT_KEY: NFT_CT_STATE
    let is_state = |nla: &DefaultNla| {
        let mut bytes = vec![0; nla.value_len()];
        nla.emit_value(&mut bytes);
        nla.kind() == 2 && bytes.iter().all(|byte| *byte == 0)
    };
    if attributes.iter().any(is_state) { Loaded::State(u8::MAX) } else { Loaded::Other }
}

fn load_meta(meta: &[Meta]) -> Loaded {
    match meta.iter().find_map(|a| if let Meta::Key(key) = a { Some(*key) } else { None }) {
        Some(MetaKey::Iifname) => Loaded::Incoming,
        Some(MetaKey::Nfproto) => Loaded::Family,
        Some(MetaKey::Mark) => Loaded::Mark,
        Some(MetaKey::L4Proto) => Loaded::Above,
        _ => Loaded::Other,
    }
}

fn load_payload(payload: &[Payload], address: Option<IpAddr>) -> Loaded {
    /// `NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`.
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    let find = |read: fn(&Payload) -> Option<u32>| payload.iter().find_map(read).unwrap_or(0);
    let base = find(|a| if let Payload::Base(n) = a { Some(*n) } else { None });
    let offset = find(|a| if let Payload::Offset(n) = a { Some(*n) } else { None });
    let length = find(|a| if let Payload::Len(n) = a { Some(*n) } else { None });
    let source = address.filter(|address| offset == if address.is_ipv4() { 12 } else { 8 });
    match (base, source, usize::try_from(length)) {
        (TRANSPORT, ..) => Loaded::Above,
        (NETWORK, Some(address), Ok(length)) if length <= octets(address).len() => {
            let mut bytes = octets(address);
            bytes.truncate(length);
            Loaded::Source(bytes)
        }
        _ => Loaded::Other,
    }
}

fn apply_mask(loaded: &mut Loaded, bitwise: &[Bitwise]) {
    let mask = bitwise.iter().find_map(|a| match a {
        Bitwise::Mask(DataAttribute::Value(mask)) => Some(mask),
        _ => None,
    });
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

/// Whether the connection satisfies the comparison, if that can be told.
fn compare(loaded: &Loaded, cmp: &[Cmp], of: &Connection<'_>) -> Option<bool> {
    let equal = match cmp.iter().find_map(|a| if let Cmp::Op(op) = a { Some(*op) } else { None })? {
        Operator::Equal => true,
        Operator::NotEqual => false,
        _ => return None,
    };
    let value =
        cmp.iter().find_map(|a| if let Cmp::Data(DataAttribute::Value(value)) = a { Some(value) } else { None })?;
    let same = match loaded {
        Loaded::State(bits) => u32_of(value)? == u32::from(bits & NEW),
        // What a rule says about some protocol or port decides nothing about the others.
        Loaded::Above => return if equal { Some(false) } else { None },
        Loaded::Incoming if value.starts_with(b"lo\0") => false,
        Loaded::Family => *value == [of.address.map_or(Ip::V4, Ip::of).number()],
        Loaded::Mark if !of.is_marked && value.iter().any(|byte| *byte != 0) => false,
        Loaded::Source(bytes) => bytes == value,
        _ => return None,
    };
    Some(same == equal)
}

/// The same for a lookup in a set.
fn look_up(loaded: &Loaded, lookup: &[Lookup], of: &Connection<'_>) -> Result<Option<bool>, NftError> {
    let name = lookup.iter().find_map(|a| if let Lookup::Set(name) = a { Some(name.as_str()) } else { None });
    let inverted = lookup.iter().any(|attribute| matches!(attribute, Lookup::Flags(1..)));
    match (loaded, name) {
        (Loaded::Above, _) if !inverted => Ok(Some(false)),
        (Loaded::State(bits), Some(name)) => {
            let is_new = |key: &Vec<u8>| u32_of(key).is_none_or(|key| key == u32::from(bits & NEW));
            let found = (of.keys)(name)?.iter().any(is_new);
            // That it leads somewhere doesn't say whereto.
            Ok(if found == inverted { Some(false) } else { None })
        }
        _ => Ok(None),
    }
}
