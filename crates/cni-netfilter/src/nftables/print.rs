//! Plans in nft's own language, as `nft list ruleset` shows what they make and `nft -f` can load it.
//!
//! Rules are printed from their expressions, not from their text: what is printed is what the kernel gets.

use std::fmt::{self, Write};
use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta, MetaKey, Operator, Payload, Register, Verdict,
    VerdictAttribute,
};

use super::element::{Element, Value};
use super::error::NftError;
use super::expr::Ip;
use super::frame::{Chain, Family, Rule, TableId};
use super::plan::Plan;
use super::set::{DataType, Maps, Set};
use super::{Nftables, firewall, firewall_frame, macspoof, masquerade, portforward};
use crate::{Forwarding, MacGuard, Masquerade, PortForwards};

impl Nftables {
    /// What [`Nftables::add_masquerade`] makes in an empty network namespace. Asks the kernel nothing.
    ///
    /// # Errors
    /// As that has them before it turns to the kernel.
    pub fn print_masquerade(intents: &[Masquerade]) -> Result<String, NftError> {
        Ok(masquerade::plan(intents)?.to_string())
    }

    /// What [`Nftables::add_ports`] makes in an empty network namespace. Asks the kernel nothing.
    ///
    /// # Errors
    /// As that has them before it turns to the kernel.
    pub fn print_ports(intents: &[PortForwards]) -> Result<String, NftError> {
        Ok(portforward::plan(intents)?.to_string())
    }

    /// What [`Nftables::add_mac_guard`] makes in an empty network namespace. Asks the kernel nothing.
    pub fn print_mac_guard(guard: &MacGuard) -> String {
        macspoof::plan(guard).to_string()
    }

    /// What [`Nftables::add_forwarding`] makes in an empty network namespace. Asks the kernel nothing.
    ///
    /// # Errors
    /// As that has them before it turns to the kernel.
    pub fn print_forwarding(intent: &Forwarding) -> Result<String, NftError> {
        let mut plan = firewall::plan(intent)?;
        let admin = Chain { name: firewall_frame::ADMIN.to_owned(), base: None, rules: Vec::new() };
        plan.chains.push((firewall_frame::TABLE, admin));
        Ok(plan.to_string())
    }
}

/// Every table that the plan concerns, with its sets, elements and chains.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for frame in &self.frames {
            writeln!(f, "table {} {{\n\tcomment {:?}", frame.table, frame.comment)?;
            for set in &frame.sets {
                write_set(f, set, &self.elements_of(frame.table, set.name))?;
            }
            let further = self.chains.iter().chain(&self.own_chains).filter(|(table, _)| *table == frame.table);
            for chain in frame.chains.iter().chain(further.map(|(_, chain)| chain)) {
                write_chain(f, frame.table, chain)?;
            }
            writeln!(f, "}}")?;
        }
        Ok(())
    }
}

impl Plan {
    /// The elements of a set, those of the index included.
    fn elements_of(&self, table: TableId, set: &str) -> Vec<Element> {
        let count = |comment: &str| {
            self.elements.iter().filter(|element| element.set.table == table && element.comment == comment).count()
        };
        let index = self.owners.iter().map(|owner| owner.element(count(&owner.comment)));
        let all = self.elements.iter().cloned().chain(index);
        all.filter(|element| element.set.table == table && element.set.name == set).collect()
    }
}

fn write_set(f: &mut fmt::Formatter<'_>, set: &Set, elements: &[Element]) -> fmt::Result {
    let value: &[DataType] = if let Maps::To(types) = &set.maps { types } else { &[] };
    let (word, maps_to) = match &set.maps {
        Maps::Nothing => ("set", String::new()),
        Maps::ToVerdict => ("map", " : verdict".to_owned()),
        Maps::To(types) => ("map", format!(" : {}", type_names(types))),
    };
    writeln!(f, "\t{word} {} {{\n\t\ttype {}{maps_to}\n\t\tcomment {:?}", set.name, type_names(set.key), set.comment)?;
    let text = |element: &Element| {
        let value = match &element.value {
            Value::Nothing => String::new(),
            Value::Data(bytes) => format!(" : {}", data(value, bytes)),
            Value::Goto(chain) => format!(" : goto {chain}"),
        };
        format!("{} comment {:?}{value}", data(set.key, &element.key), element.comment)
    };
    if !elements.is_empty() {
        let texts: Vec<String> = elements.iter().map(text).collect();
        writeln!(f, "\t\telements = {{ {} }}", texts.join(",\n\t\t\t     "))?;
    }
    writeln!(f, "\t}}")
}

fn write_chain(f: &mut fmt::Formatter<'_>, table: TableId, chain: &Chain) -> fmt::Result {
    writeln!(f, "\tchain {} {{", chain.name)?;
    if let Some(base) = chain.base {
        writeln!(f, "\t\t{base}; policy accept;")?;
    }
    for rule in &chain.rules {
        writeln!(f, "\t\t{}", print_rule(table, rule))?;
    }
    writeln!(f, "\t}}")
}

fn type_names(types: &[DataType]) -> String {
    let names = types.iter().map(|part| match part {
        DataType::Address(Ip::V4) => "ipv4_addr",
        DataType::Address(Ip::V6) => "ipv6_addr",
        DataType::Ethernet => "ether_addr",
        DataType::Protocol => "inet_proto",
        DataType::Port => "inet_service",
        DataType::Interface => "ifname",
        DataType::Mark => "mark",
    });
    names.collect::<Vec<_>>().join(" . ")
}

/// The bytes of a key or value, each part padded to whole registers.
fn data(types: &[DataType], bytes: &[u8]) -> String {
    let mut rest = bytes;
    let parts = types.iter().map(|part| {
        let (own, more) = rest.split_at(rest.len().min(usize::try_from(part.length()).unwrap_or(0)));
        rest = more;
        match part {
            DataType::Address(_) => address(own),
            DataType::Ethernet => own.iter().take(6).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"),
            DataType::Protocol => protocol_name(own),
            DataType::Port => big_endian(own.get(..2).unwrap_or(own)).to_string(),
            DataType::Interface => interface(own),
            DataType::Mark => format!("{:#010x}", host_order(own)),
        }
    });
    parts.collect::<Vec<_>>().join(" . ")
}

fn address(bytes: &[u8]) -> String {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4.or(v6).map_or_else(|_| hexadecimal(bytes), |address| address.to_string())
}

fn protocol_name(bytes: &[u8]) -> String {
    match bytes.first() {
        Some(6) => "tcp".to_owned(),
        Some(17) => "udp".to_owned(),
        Some(132) => "sctp".to_owned(),
        _ => hexadecimal(bytes),
    }
}

/// A whole name is padded with zeros to 16 bytes; a shorter one is the beginning of names.
fn interface(bytes: &[u8]) -> String {
    let name = String::from_utf8_lossy(bytes);
    let star = if bytes.len() < 16 { "*" } else { "" };
    format!("\"{}{star}\"", name.trim_end_matches('\0'))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn host_order(bytes: &[u8]) -> u32 {
    <[u8; 4]>::try_from(bytes).map_or(0, u32::from_ne_bytes)
}

/// A rule's expressions in nft's language.
fn print_rule(table: TableId, rule: &Rule) -> String {
    let ip = if let Family::Only(ip) = table.family { Some(ip) } else { None };
    let mut printer = Printer { ip, ..Printer::default() };
    for expression in &rule.expressions {
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
    Address(Ip),
    Port,
    Interface,
    Mark,
    CtState,
    CtStatus,
    AddressType,
    Other,
}

/// Registers, and the words printed so far.
#[derive(Default)]
struct Printer {
    ip: Option<Ip>,
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
        let mut key = MetaKey::Mark;
        for part in parts {
            match part {
                Meta::Key(found) => key = *found,
                Meta::DestinationRegister(register) => match key {
                    MetaKey::Nfproto => self.load(slot(*register), "meta nfproto", Kind::Nfproto),
                    MetaKey::L4Proto => self.load(slot(*register), "meta l4proto", Kind::L4Proto),
                    MetaKey::Iifname => self.load(slot(*register), "iifname", Kind::Interface),
                    MetaKey::Oifname => self.load(slot(*register), "oifname", Kind::Interface),
                    MetaKey::Mark => self.load(slot(*register), "meta mark", Kind::Mark),
                    other => self.load(slot(*register), format!("meta ({other:?})"), Kind::Other),
                },
                Meta::SourceRegister(_) => {
                    let operand = self.operand();
                    self.push(format!("meta mark set {}", arithmetic(&operand)));
                }
                _ => {}
            }
        }
    }

    fn payload(&mut self, parts: &[Payload]) {
        let (mut to, mut base, mut offset, mut length) = (0, 0, 0, 0);
        for part in parts {
            match part {
                Payload::DestinationRegister(register) => to = slot(*register),
                Payload::Base(value) => base = *value,
                Payload::Offset(value) => offset = *value,
                Payload::Len(value) => length = *value,
                _ => {}
            }
        }
        match (base, offset, self.ip) {
            (0, 6, _) => self.load(to, "ether saddr", Kind::Other),
            (1, 12, Some(Ip::V4)) => self.load(to, "ip saddr", Kind::Address(Ip::V4)),
            (1, 16, Some(Ip::V4)) => self.load(to, "ip daddr", Kind::Address(Ip::V4)),
            (1, 8, Some(Ip::V6)) => self.load(to, "ip6 saddr", Kind::Address(Ip::V6)),
            (1, 24, Some(Ip::V6)) => self.load(to, "ip6 daddr", Kind::Address(Ip::V6)),
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
        let (mut mask, mut xor) = (Vec::new(), Vec::new());
        for part in parts {
            match part {
                Bitwise::Mask(DataAttribute::Value(bytes)) => mask.clone_from(bytes),
                Bitwise::Xor(DataAttribute::Value(bytes)) => xor.clone_from(bytes),
                _ => {}
            }
        }
        if let Some((_, operand)) = self.slots.first_mut() {
            operand.bits = Some((mask, xor));
        }
    }

    fn compare(&mut self, parts: &[Cmp]) {
        let (mut op, mut bytes) = (Operator::Equal, Vec::new());
        for part in parts {
            match part {
                Cmp::Op(found) => op = *found,
                Cmp::Data(DataAttribute::Value(value)) => bytes.clone_from(value),
                _ => {}
            }
        }
        let operand = self.operand();
        match operand.kind {
            // nft implies it in what follows.
            Kind::Nfproto if op == Operator::Equal => {
                self.ip = [Ip::V4, Ip::V6].into_iter().find(|ip| bytes == [ip.number()]);
            }
            Kind::L4Proto if op == Operator::Equal => {
                self.flush_protocol();
                self.protocol = Some(protocol_name(&bytes));
            }
            _ => self.push(comparison(&operand, op, &bytes)),
        }
    }

    fn lookup(&mut self, parts: &[Lookup]) {
        let (mut set, mut to, mut inverted) = (String::new(), None, false);
        for part in parts {
            match part {
                Lookup::Set(name) => set.clone_from(name),
                Lookup::DestinationRegister(register) => to = Some(*register),
                Lookup::Flags(flags) => inverted = *flags & 1 != 0,
                _ => {}
            }
        }
        let key = self.operand().text;
        match to {
            None => self.push(format!("{key}{} @{set}", if inverted { " !=" } else { "" })),
            Some(Register::Verdict) => self.push(format!("{key} vmap @{set}")),
            Some(register) => self.load(slot(register), format!("{key} map @{set}"), Kind::Other),
        }
    }

    fn immediate(&mut self, parts: &[Immediate]) {
        let verdicts = parts.iter().filter_map(|part| match part {
            Immediate::Data(DataAttribute::Verdict(verdict)) => Some(verdict),
            _ => None,
        });
        for verdict in verdicts {
            let chain = verdict.iter().find_map(|part| match part {
                VerdictAttribute::Chain(name) => Some(name.as_str()),
                _ => None,
            });
            let code =
                verdict.iter().find_map(|part| if let VerdictAttribute::Code(code) = part { Some(code) } else { None });
            let chain = chain.unwrap_or_default();
            self.push(match code {
                Some(Verdict::Goto) => format!("goto {chain}"),
                Some(Verdict::Jump) => format!("jump {chain}"),
                Some(Verdict::Return) => "return".to_owned(),
                Some(Verdict::Other(0)) => "drop".to_owned(),
                Some(Verdict::Other(1)) => "accept".to_owned(),
                other => format!("({other:?})"),
            });
        }
    }

    /// The expressions of [`super::raw`], which have no type of their own.
    fn other(&mut self, name: &str, attributes: &[DefaultNla]) {
        let number =
            |kind: u16| attributes.iter().find(|part| part.kind() == kind).map(|part| big_endian(&value(part)));
        let to = number(1).and_then(|number| u32::try_from(number).ok()).map_or(0, |number| slot(number.into()));
        match (name, number(2)) {
            ("fib", _) => self.load(to, "fib daddr type", Kind::AddressType),
            ("ct", Some(0)) => self.load(to, "ct state", Kind::CtState),
            ("ct", Some(2)) => self.load(to, "ct status", Kind::CtStatus),
            ("ct", Some(12)) => self.load(to, "ct original proto-dst", Kind::Other),
            ("masq", _) => self.push("masquerade".to_owned()),
            ("nat", Some(family)) => {
                let ip = if family == 2 { "ip" } else { "ip6" };
                let operand = self.operand().text;
                self.push(format!("dnat {ip} to {operand}"));
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

/// The slot of 4 bytes that a register begins at: the opposite of [`super::expr::register`].
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
    /// `RTN_LOCAL`.
    const LOCAL: u32 = 2;
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
        (Kind::Address(ip), _) => format!("{text} {sign}{}", prefix(ip, mask, bytes)),
        (Kind::Port, _) => format!("{text} {sign}{}", big_endian(bytes)),
        (Kind::L4Proto, _) => format!("{text} {sign}{}", protocol_name(bytes)),
        (Kind::Interface, _) => format!("{text} {sign}{}", interface(bytes)),
        (Kind::Mark, None) => format!("{text} {sign}{:#010x}", host_order(bytes)),
        (Kind::Mark, Some(mask)) => {
            let sign = if op == Operator::Equal { "== " } else { sign };
            format!("{text} & {:#010x} {sign}{:#010x}", host_order(mask), host_order(bytes))
        }
        (Kind::AddressType, _) if host_order(bytes) == LOCAL => format!("{text} {sign}local"),
        // With a mask and `!= 0`: at least one of these bits.
        (Kind::CtState, Some(mask)) => format!("{text} {}", flags(mask, &[(2, "established"), (4, "related")])),
        (Kind::CtStatus, Some(mask)) => format!("{text} {}", flags(mask, &[(32, "dnat")])),
        _ => format!("{text} {sign}{}", hexadecimal(bytes)),
    }
}

fn flags(mask: &[u8], names: &[(u32, &str)]) -> String {
    let set = names.iter().filter(|(bit, _)| host_order(mask) & bit != 0);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join(",")
}

/// An address with the prefix that its mask, or its length, stands for.
fn prefix(ip: Ip, mask: Option<&[u8]>, bytes: &[u8]) -> String {
    let ones = |mask: &[u8]| mask.iter().map(|byte| byte.count_ones()).sum::<u32>();
    let whole = usize::try_from(ip.length()).unwrap_or(bytes.len());
    let length = mask.map_or_else(|| u32::try_from(bytes.len()).unwrap_or(0) * 8, ones);
    let mut all = bytes.to_vec();
    all.resize(whole, 0);
    if length == ip.length() * 8 { address(&all) } else { format!("{}/{length}", address(&all)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nftables::{firewall_frame, localnet, macspoof, masquerade, portframe};

    #[test]
    fn the_text_of_each_shared_rule_is_what_its_expressions_say() {
        let frames = [
            masquerade::frame(),
            portframe::frame(Ip::V4),
            portframe::frame(Ip::V6),
            localnet::frame(),
            macspoof::frame(),
            firewall_frame::frame(),
        ];
        for frame in &frames {
            for rule in frame.chains.iter().flat_map(|chain| &chain.rules) {
                assert_eq!(print_rule(frame.table, rule), rule.text, "{}", frame.table);
            }
        }
    }
}
