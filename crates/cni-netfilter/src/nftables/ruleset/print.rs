//! Rules in nft's own language, as `nft list ruleset` shows them and `nft -f` can load them. A rule is printed from its expressions: what
//! is printed is what the kernel gets.

use cni_plugin::Family;
use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta, MetaKey, Operator, Payload, Register, Verdict,
};

use super::expression::{
    ACCEPT, CT_DESTINATION_PORT, CT_DIRECTION, CT_STATE, CT_STATUS, DROP, DST_NAT, ESTABLISHED, LOCAL, RELATED, REPLY,
    SOURCE_NAT, Side, address_offset, bytes_of, verdict_in,
};
use super::text::{address, big_endian, hexadecimal, host_order, interface, protocol};
use crate::nftables::wire::{TableFamily, part};

/// A rule of a table of this family.
pub(crate) fn rule(family: TableFamily, rule: &[Expressions]) -> String {
    let mut printer = Printer { ip: family.address_family(), ..Printer::default() };
    for expression in rule {
        printer.expression(expression);
    }
    printer.flush_protocol();
    printer.words.join(" ")
}

/// What a register holds.
#[derive(Clone)]
struct Operand {
    text: String,
    kind: Kind,
    /// Mask and xor of a bitwise expression.
    bits: Option<(Vec<u8>, Vec<u8>)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Nfproto,
    L4Proto,
    /// An address, or its first bytes.
    Address(Family),
    Port,
    Interface,
    Mark,
    CtState,
    CtDirection,
    CtStatus,
    AddressType,
    Other,
}

/// Registers, and the words printed so far.
#[derive(Default)]
struct Printer {
    ip: Option<Family>,
    /// By slot of 4 bytes; what is read next begins at slot 0.
    slots: Vec<(u32, Operand)>,
    /// A comparison of the transport protocol that nft leaves out where a port of it follows.
    protocol: Option<String>,
    /// The protocol whose ports are meant.
    transport: Option<String>,
    words: Vec<String>,
}

impl Printer {
    fn expression(&mut self, expression: &Expressions) {
        match expression {
            Expressions::Meta(parts) => self.meta(parts),
            Expressions::Payload(parts) => self.payload(parts),
            Expressions::Bitwise(parts) => self.bitwise(parts),
            Expressions::Cmp(parts) => self.compare(parts),
            Expressions::Lookup(parts) => self.lookup(parts),
            Expressions::Immediate(parts) => self.immediate(parts),
            Expressions::Other { expression_type, attributes } => self.other(expression_type, attributes),
            other => self.words.push(format!("({other:?})")),
        }
    }

    fn load(&mut self, slot: u32, text: impl Into<String>, kind: Kind) {
        self.slots.retain(|(used, _)| *used < slot);
        self.slots.push((slot, Operand { text: text.into(), kind, bits: None }));
    }

    /// What slot 0 and the ones behind it hold, as one operand. It stays readable until something else is loaded.
    fn operand(&self) -> Operand {
        let texts: Vec<&str> = self.slots.iter().map(|(_, operand)| operand.text.as_str()).collect();
        match self.slots.as_slice() {
            [(_, only)] => only.clone(),
            _ => Operand { text: texts.join(" . "), kind: Kind::Other, bits: None },
        }
    }

    fn flush_protocol(&mut self) {
        if let Some(name) = self.protocol.take() {
            self.words.push(format!("meta l4proto {name}"));
        }
    }

    fn push(&mut self, words: String) {
        self.flush_protocol();
        self.words.push(words);
    }

    fn meta(&mut self, parts: &[Meta]) {
        let Some(register) = part!(parts, Meta::DestinationRegister) else {
            let operand = self.operand();
            return self.push(format!("meta mark set {}", arithmetic(&operand)));
        };
        let to = slot(*register);
        match part!(parts, Meta::Key) {
            Some(MetaKey::Nfproto) => self.load(to, "meta nfproto", Kind::Nfproto),
            Some(MetaKey::L4Proto) => self.load(to, "meta l4proto", Kind::L4Proto),
            Some(MetaKey::Iifname) => self.load(to, "iifname", Kind::Interface),
            Some(MetaKey::Oifname) => self.load(to, "oifname", Kind::Interface),
            Some(MetaKey::Mark) => self.load(to, "meta mark", Kind::Mark),
            other => self.load(to, format!("meta ({other:?})"), Kind::Other),
        }
    }

    fn payload(&mut self, parts: &[Payload]) {
        let to = part!(parts, Payload::DestinationRegister).map_or(0, |register| slot(*register));
        let numbers = [part!(parts, Payload::Base), part!(parts, Payload::Offset), part!(parts, Payload::Len)];
        let [base, offset, length] = numbers.map(|number| number.copied().unwrap_or(0));
        let side = self.ip.and_then(|family| {
            let is_at = |(_, side): &(&str, Side)| base == 1 && address_offset(family, *side) == offset;
            let word = |(word, _)| (family, format!("{} {word}", TableFamily::from(family)));
            [("saddr", Side::Source), ("daddr", Side::Destination)].into_iter().find(is_at).map(word)
        });
        match (base, offset, side) {
            (_, _, Some((family, text))) => self.load(to, text, Kind::Address(family)),
            (0, 6, _) => self.load(to, "ether saddr", Kind::Other),
            (2, 0 | 2, _) => {
                self.transport = self.protocol.take().or(self.transport.take());
                let side = if offset == 0 { "sport" } else { "dport" };
                let text = format!("{} {side}", self.transport.as_deref().unwrap_or("th"));
                self.load(to, text, Kind::Port);
            }
            _ => self.load(to, format!("@{base},{},{}", offset * 8, length * 8), Kind::Other),
        }
    }

    fn bitwise(&mut self, parts: &[Bitwise]) {
        let bytes = |data: Option<&DataAttribute>| data.and_then(bytes_of).cloned().unwrap_or_default();
        if let Some((_, operand)) = self.slots.first_mut() {
            operand.bits = Some((bytes(part!(parts, Bitwise::Mask)), bytes(part!(parts, Bitwise::Xor))));
        }
    }

    fn compare(&mut self, parts: &[Cmp]) {
        let op = part!(parts, Cmp::Op).copied().unwrap_or(Operator::Equal);
        let bytes = part!(parts, Cmp::Data).and_then(bytes_of).map(Vec::as_slice).unwrap_or_default();
        let operand = self.operand();
        match operand.kind {
            // nft implies it in what follows.
            Kind::Nfproto if op == Operator::Equal => {
                self.ip = Family::ALL.into_iter().find(|family| bytes == [TableFamily::from(*family).number()]);
            }
            Kind::L4Proto if op == Operator::Equal => {
                self.flush_protocol();
                self.protocol = Some(protocol(bytes));
            }
            _ => self.push(comparison(&operand, op, bytes)),
        }
    }

    fn lookup(&mut self, parts: &[Lookup]) {
        let set = part!(parts, Lookup::Set).map(String::as_str).unwrap_or_default();
        let inverted = part!(parts, Lookup::Flags).is_some_and(|flags| flags & 1 != 0);
        let key = self.operand().text;
        match part!(parts, Lookup::DestinationRegister) {
            None => self.push(format!("{key}{} @{set}", if inverted { " !=" } else { "" })),
            Some(Register::Verdict) => self.push(format!("{key} vmap @{set}")),
            Some(register) => self.load(slot(*register), format!("{key} map @{set}"), Kind::Other),
        }
    }

    fn immediate(&mut self, parts: &[Immediate]) {
        let Some((code, chain)) = verdict_in(parts) else {
            let to = part!(parts, Immediate::DestinationRegister).map_or(0, |register| slot(*register));
            let bytes = part!(parts, Immediate::Data).and_then(bytes_of).map(Vec::as_slice).unwrap_or_default();
            return self.load(to, address(bytes), Kind::Other);
        };
        let chain = chain.unwrap_or_default();
        self.push(match code {
            Verdict::Goto => format!("goto {chain}"),
            Verdict::Jump => format!("jump {chain}"),
            Verdict::Return => "return".to_owned(),
            Verdict::Other(DROP) => "drop".to_owned(),
            Verdict::Other(ACCEPT) => "accept".to_owned(),
            other => format!("({other:?})"),
        });
    }

    /// Expressions that have no type of their own in `netlink-packet-netfilter`.
    fn other(&mut self, name: &str, attributes: &[DefaultNla]) {
        let number =
            |kind: u16| attributes.iter().find(|part| part.kind() == kind).map(|part| big_endian(&value(part)));
        let to = number(1).and_then(|number| u32::try_from(number).ok()).map_or(0, |number| slot(number.into()));
        let is_ct = |key: u32| name == "ct" && number(2) == Some(key.into());
        match (name, number(2)) {
            ("fib", _) => self.load(to, "fib daddr type", Kind::AddressType),
            _ if is_ct(CT_STATE) => self.load(to, "ct state", Kind::CtState),
            _ if is_ct(CT_DIRECTION) => self.load(to, "ct direction", Kind::CtDirection),
            _ if is_ct(CT_STATUS) => self.load(to, "ct status", Kind::CtStatus),
            _ if is_ct(CT_DESTINATION_PORT) => self.load(to, "ct original proto-dst", Kind::Other),
            ("numgen", Some(modulus)) => self.load(to, format!("numgen random mod {modulus}"), Kind::Other),
            ("masq", _) => self.push("masquerade".to_owned()),
            ("nat", Some(family)) => {
                let is_v4 = family == u64::from(TableFamily::Ip.number());
                let (family, operand) = (if is_v4 { "ip" } else { "ip6" }, self.operand().text);
                let word = if number(1) == Some(SOURCE_NAT.into()) { "snat" } else { "dnat" };
                self.push(format!("{word} {family} to {operand}"));
            }
            _ => self.words.push(format!("({name} {attributes:?})")),
        }
    }
}

fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}

/// The slot of 4 bytes that a register begins at: the opposite of [`super::expression::register`].
fn slot(register: Register) -> u32 {
    match u32::from(register) {
        number @ 1..=4 => (number - 1) * 4,
        number => number.saturating_sub(8),
    }
}

/// A value that is made of a register by mask and xor: `meta mark | 0x00001000`.
fn arithmetic(operand: &Operand) -> String {
    let Some((mask, xor)) = &operand.bits else { return operand.text.clone() };
    let (mask, xor) = (host_order(mask), host_order(xor));
    match (mask, xor) {
        (mask, 0) => format!("{} & {mask:#010x}", operand.text),
        (mask, xor) if mask == !xor => format!("{} | {xor:#010x}", operand.text),
        (mask, xor) => format!("{} & {mask:#010x} ^ {xor:#010x}", operand.text),
    }
}

fn comparison(operand: &Operand, op: Operator, bytes: &[u8]) -> String {
    let mask = operand.bits.as_ref().map(|(mask, _)| mask.as_slice());
    let sign = match op {
        Operator::Equal => "",
        Operator::NotEqual => "!= ",
        Operator::LessThan => "< ",
        Operator::LessThanEqual => "<= ",
        Operator::GreaterThan => "> ",
        Operator::GreatherThanEqual => ">= ",
        _ => "(unknown) ",
    };
    let text = &operand.text;
    match (operand.kind, mask) {
        (Kind::Address(family), _) => format!("{text} {sign}{}", prefix(family, mask, bytes)),
        (Kind::Port, _) => format!("{text} {sign}{}", big_endian(bytes)),
        (Kind::L4Proto, _) => format!("{text} {sign}{}", protocol(bytes)),
        (Kind::Interface, _) => format!("{text} {sign}{}", interface(bytes)),
        (Kind::Mark, None) => format!("{text} {sign}{:#010x}", host_order(bytes)),
        (Kind::Mark, Some(mask)) => {
            let sign = if op == Operator::Equal { "== " } else { sign };
            format!("{text} & {:#010x} {sign}{:#010x}", host_order(mask), host_order(bytes))
        }
        (Kind::CtDirection, _) => format!("{text} {}", if bytes == [REPLY] { "reply" } else { "original" }),
        (Kind::AddressType, _) if host_order(bytes) == LOCAL => format!("{text} {sign}local"),
        // With a mask and `!= 0`: at least one of these bits.
        (Kind::CtState, Some(mask)) => {
            format!("{text} {}", flags(mask, &[(ESTABLISHED, "established"), (RELATED, "related")]))
        }
        (Kind::CtStatus, Some(mask)) => format!("{text} {}", flags(mask, &[(DST_NAT, "dnat")])),
        _ => format!("{text} {sign}{}", hexadecimal(bytes)),
    }
}

fn flags(mask: &[u8], names: &[(u32, &str)]) -> String {
    let set = names.iter().filter(|(bit, _)| host_order(mask) & bit != 0);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join(",")
}

/// An address with the prefix that its mask, or its length, stands for.
fn prefix(family: Family, mask: Option<&[u8]>, bytes: &[u8]) -> String {
    let ones = |mask: &[u8]| mask.iter().map(|byte| byte.count_ones()).sum::<u32>();
    let length = mask.map_or_else(|| u32::try_from(bytes.len()).unwrap_or(0) * 8, ones);
    let mut all = bytes.to_vec();
    all.resize(usize::from(family.bits()) / 8, 0);
    if length == u32::from(family.bits()) { address(&all) } else { format!("{}/{length}", address(&all)) }
}
