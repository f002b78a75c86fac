//! The rule set of nf_tables, as `nft -j list ruleset` prints it (libnftables-json(5)), and what it does to a packet.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use cni_plugin::Family;
use ipnetwork::IpNetwork;
use serde_json::Value;

use super::{BaseChain, Culprit, Evaluation, Hook, Place, Published, Verdict};

/// How deep the kernel lets jumps go (`NFT_JUMP_STACK_SIZE`).
const DEEPEST: usize = 16;
/// Tables that iptables-nft keeps under these names.
const OF_IPTABLES: [&str; 5] = ["raw", "mangle", "nat", "filter", "security"];

/// Family, table and name.
pub(super) type ChainId = (String, String, String);

/// Tables with what is in them.
#[derive(Debug, Default)]
pub(super) struct Ruleset {
    chains: HashMap<ChainId, Chain>,
    sets: HashMap<ChainId, Set>,
}

#[derive(Debug, Default)]
struct Chain {
    hook: Option<(Hook, i64)>,
    is_nat: bool,
    drops: bool,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    handle: u64,
    statements: Vec<Value>,
}

/// A set's elements, and of a map what they lead to.
#[derive(Debug, Default)]
struct Set {
    elements: Vec<(Value, Option<Value>)>,
}

/// What an expression is worth for the packet.
#[derive(Debug, Clone, PartialEq)]
enum Worth {
    Address(IpAddr),
    Number(u64),
    Text(String),
    /// Bits that are set, by name.
    Flags(Vec<&'static str>),
    Concat(Vec<Worth>),
}

/// How a rule ends.
enum End {
    /// Its matches don't hold, or it says nothing that ends the chain.
    Next,
    Unknown,
    Verdict(Verdict),
    Return,
    Jump(String),
    Goto(String),
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn id(object: &Value, name: &str) -> ChainId {
    (text(object, "family").to_owned(), text(object, "table").to_owned(), text(object, name).to_owned())
}

impl Ruleset {
    pub(super) fn parse(json: &str) -> Result<Self, String> {
        let document: Value = serde_json::from_str(json).map_err(|error| format!("nft's JSON: {error}"))?;
        let objects = document.get("nftables").and_then(Value::as_array).ok_or("nft's JSON has no list of objects")?;
        let mut ruleset = Self::default();
        for (kind, object) in objects.iter().filter_map(Value::as_object).flatten() {
            match kind.as_str() {
                "chain" => {
                    ruleset.chains.insert(id(object, "name"), Chain::read(object));
                }
                "set" | "map" => {
                    ruleset.sets.insert(id(object, "name"), Set::read(object.get("elem")));
                }
                "rule" => {
                    let statements = object.get("expr").and_then(Value::as_array).cloned().unwrap_or_default();
                    let handle = object.get("handle").and_then(Value::as_u64).unwrap_or_default();
                    ruleset.chains.entry(id(object, "chain")).or_default().rules.push(Rule { handle, statements });
                }
                _ => {}
            }
        }
        Ok(ruleset)
    }

    /// True if there is a table that iptables-nft may have made.
    pub(super) fn has_iptables_tables(&self, family: Family) -> bool {
        self.chains.keys().any(|(of, table, _)| of == name_of(family) && OF_IPTABLES.contains(&table.as_str()))
    }

    /// All base chains, but for those of iptables' tables that `shown` has already.
    pub(super) fn base_chains(&self, shown: &[(Family, String)]) -> Vec<BaseChain> {
        let is_shown = |id: &ChainId| shown.iter().any(|(family, table)| name_of(*family) == id.0 && *table == id.1);
        let chains = self.chains.iter().filter(|(id, _)| !is_shown(id));
        chains
            .filter_map(|(id, chain)| {
                let (hook, priority) = chain.hook?;
                let is_bridge = id.0 == "bridge";
                let known = is_bridge || ["ip", "ip6", "inet"].contains(&id.0.as_str());
                let place = Place::Nft(id.clone());
                known.then_some(BaseChain { hook, priority, is_nat: chain.is_nat, is_bridge, place })
            })
            .collect()
    }

    pub(super) fn evaluate(&self, id: &ChainId, of: &mut Evaluation<'_>) -> Verdict {
        let is_of_family = match id.0.as_str() {
            "ip" => of.packet.family() == Family::V4,
            "ip6" => of.packet.family() == Family::V6,
            _ => true,
        };
        if !is_of_family {
            return Verdict::Continue;
        }
        match self.walk(id, of, 0) {
            Verdict::Continue if self.chains.get(id).is_some_and(|chain| chain.drops) => {
                Verdict::Drop(culprit(id, "policy drop".to_owned()))
            }
            decided => decided,
        }
    }

    fn walk(&self, id: &ChainId, of: &mut Evaluation<'_>, depth: usize) -> Verdict {
        let Some(chain) = self.chains.get(id).filter(|_| depth < DEEPEST) else { return Verdict::Continue };
        let beside = |name: String| (id.0.clone(), id.1.clone(), name);
        for rule in &chain.rules {
            match self.rule(id, rule, of) {
                End::Next => {}
                End::Unknown => {
                    of.not_understood(culprit(id, format!("handle {}", rule.handle)));
                }
                End::Verdict(verdict) => return verdict,
                End::Return => return Verdict::Continue,
                End::Goto(name) => return self.walk(&beside(name), of, depth + 1),
                End::Jump(name) => match self.walk(&beside(name), of, depth + 1) {
                    Verdict::Continue => {}
                    decided => return decided,
                },
            }
        }
        Verdict::Continue
    }

    fn rule(&self, id: &ChainId, rule: &Rule, of: &mut Evaluation<'_>) -> End {
        let mut is_unknown = false;
        for (kind, body) in rule.statements.iter().filter_map(Value::as_object).flatten() {
            if is_unknown && kind != "match" {
                // Whatever it does, it may be done or not.
                return if does_nothing(kind) { continue } else { End::Unknown };
            }
            let by = || culprit(id, format!("handle {}", rule.handle));
            match kind.as_str() {
                "match" => match self.matches(id, body, of) {
                    Some(true) => {}
                    Some(false) => return End::Next,
                    None => is_unknown = true,
                },
                "accept" => return End::Verdict(Verdict::Accept),
                "drop" | "reject" => return End::Verdict(Verdict::Drop(by())),
                "return" => return End::Return,
                "continue" => return End::Next,
                "jump" => return End::Jump(text(body, "target").to_owned()),
                "goto" => return End::Goto(text(body, "target").to_owned()),
                "vmap" => match self.look_up(id, body, of) {
                    Some(Some(verdict)) => match end_of(&verdict, by) {
                        End::Next => {}
                        end => return end,
                    },
                    Some(None) => {}
                    None => return End::Unknown,
                },
                "mangle" => mangle(body, of, by),
                "dnat" | "snat" | "masquerade" | "redirect" => match self.nat(id, kind, body, of) {
                    Some(Some(to)) => return End::Verdict(Verdict::Nat(to, by())),
                    Some(None) => return End::Next,
                    None => return End::Unknown,
                },
                kind if does_nothing(kind) => {}
                "xt" if text(body, "name") == "comment" => {}
                _ => is_unknown = true,
            }
        }
        End::Next
    }

    /// `None`: not known.
    fn matches(&self, id: &ChainId, body: &Value, of: &Evaluation<'_>) -> Option<bool> {
        // A field of another protocol's header: the rule's implied match on the protocol fails.
        if lacks(body.get("left")?, of) {
            return Some(false);
        }
        let left = worth(body.get("left")?, of)?;
        let right = body.get("right")?;
        match text(body, "op") {
            "==" | "in" => self.is_in(id, &left, right),
            "!=" => self.is_in(id, &left, right).map(|is| !is),
            op => {
                let (Worth::Number(left), Some(right)) = (left, right.as_u64()) else { return None };
                Some(match op {
                    "<" => left < right,
                    ">" => left > right,
                    "<=" => left <= right,
                    ">=" => left >= right,
                    _ => return None,
                })
            }
        }
    }

    /// Whether the value is what `pattern` says: a value, a prefix, a range, a set or the name of one.
    fn is_in(&self, id: &ChainId, value: &Worth, pattern: &Value) -> Option<bool> {
        if let Some(name) = pattern.as_str().and_then(|name| name.strip_prefix('@')) {
            return self.find(id, value, &self.set(id, name)?.elements).map(|found| found.is_some());
        }
        if let Some(list) = pattern.get("set").and_then(Value::as_array).or_else(|| pattern.as_array()) {
            let elements: Vec<_> = list.iter().map(|element| (plain(element).clone(), None)).collect();
            return self.find(id, value, &elements).map(|found| found.is_some());
        }
        is_one(value, pattern)
    }

    /// The element that the value is in, with what it leads to.
    fn find<'e>(
        &self,
        id: &ChainId,
        value: &Worth,
        elements: &'e [(Value, Option<Value>)],
    ) -> Option<Option<&'e Option<Value>>> {
        let mut is_sure = true;
        for (key, leads) in elements {
            match self.is_in(id, value, key) {
                Some(true) => return Some(Some(leads)),
                Some(false) => {}
                None => is_sure = false,
            }
        }
        is_sure.then_some(None)
    }

    fn set(&self, id: &ChainId, name: &str) -> Option<&Set> {
        self.sets.get(&(id.0.clone(), id.1.clone(), name.to_owned()))
    }

    /// What a map leads to: `Some(None)` if it has no such key, `None` if that isn't known.
    fn look_up(&self, id: &ChainId, body: &Value, of: &Evaluation<'_>) -> Option<Option<Value>> {
        let key = worth(body.get("key")?, of);
        // A key that the packet doesn't have (of another protocol) is in no map.
        let Some(key) = key else { return lacks(body.get("key")?, of).then_some(None) };
        let data = body.get("data")?;
        let anonymous;
        let elements = match data.as_str().and_then(|name| name.strip_prefix('@')) {
            Some(name) => &self.set(id, name)?.elements,
            None => {
                anonymous = Set::read(data.get("set").or(Some(data)));
                &anonymous.elements
            }
        };
        Some(self.find(id, &key, elements)?.cloned().flatten())
    }

    /// The new address: `Some(None)` if the rule doesn't translate this packet, `None` if it isn't known.
    fn nat(&self, id: &ChainId, kind: &str, body: &Value, of: &Evaluation<'_>) -> Option<Option<SocketAddr>> {
        let port = match body.get("port") {
            Some(port) => Some(u16::try_from(port.as_u64()?).ok()?),
            None => None,
        };
        let present = if kind == "snat" || kind == "masquerade" { of.packet.src } else { of.packet.dst };
        match kind {
            "masquerade" => return of.masqueraded().map(Some),
            "redirect" => return of.redirected(port).map(Some),
            _ => {}
        }
        let Some(addr) = body.get("addr") else {
            return Some(port.map(|port| SocketAddr::new(present.ip(), port)));
        };
        if addr.as_str().is_some_and(|text| text.parse::<IpAddr>().is_ok_and(|ip| Family::of(ip) != of.packet.family()))
        {
            return Some(None);
        }
        let to = match addr.get("map") {
            Some(map) => match self.look_up(id, map, of)? {
                Some(to) => to,
                None => return Some(None),
            },
            None => addr.clone(),
        };
        endpoint(&to, port.unwrap_or(present.port())).map(Some)
    }

    /// What maps of nf_tables publish of a port: by their keys, and by rules for one port.
    pub(super) fn published(&self, port: u16) -> Vec<Published> {
        let elements = self.sets.values().flat_map(|set| &set.elements);
        let mut found: Vec<_> = elements.filter_map(|(key, to)| published(key, to.as_ref()?, port)).collect();
        let rules = self.chains.values().flat_map(|chain| &chain.rules);
        found.extend(rules.filter_map(|rule| rule_publishes(&rule.statements, port)));
        found
    }
}

/// `meta mark set` and `ct mark set`; other fields matter to no rule that is evaluated here.
fn mangle(body: &Value, of: &mut Evaluation<'_>, by: impl Fn() -> Culprit) {
    let key = body.get("key").and_then(|key| key.get("meta").or_else(|| key.get("ct"))).map(|key| text(key, "key"));
    if key != Some("mark") {
        return;
    }
    let is_ct = body.get("key").is_some_and(|key| key.get("ct").is_some());
    match body.get("value").and_then(|value| worth(value, of)) {
        Some(Worth::Number(mark)) => {
            let mark = u32::try_from(mark & u64::from(u32::MAX)).unwrap_or_default();
            match of.packet.ct.as_mut().filter(|_| is_ct) {
                Some(ct) => ct.mark = mark,
                None if !is_ct => of.packet.mark = mark,
                None => {}
            }
        }
        _ => of.not_understood(by()),
    }
}

/// What an expression is worth; `None` if it isn't known, or the packet has no such field.
fn worth(expression: &Value, of: &Evaluation<'_>) -> Option<Worth> {
    if let Some(number) = expression.as_u64() {
        return Some(Worth::Number(number));
    }
    if let Some(word) = expression.as_str() {
        return Some(word.parse().map_or_else(|_| Worth::Text(word.to_owned()), Worth::Address));
    }
    let (kind, body) = expression.as_object()?.iter().next()?;
    match kind.as_str() {
        "payload" => payload(body, of),
        "meta" => meta(text(body, "key"), of),
        "ct" => ct(body, of),
        "fib" => fib(body, of),
        // One of several, each of which is as good: the first.
        "numgen" => Some(Worth::Number(body["offset"].as_u64().unwrap_or(0))),
        "concat" => {
            let parts: Option<Vec<_>> = body.as_array()?.iter().map(|part| worth(part, of)).collect();
            parts.map(Worth::Concat)
        }
        "&" | "|" | "^" => {
            let pair: Vec<_> = body.as_array()?.iter().map(|part| worth(part, of)).collect();
            let [Some(left), Some(right)] = pair.as_slice() else { return None };
            combine(kind, left, right)
        }
        _ => None,
    }
}

fn name_of(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// Statements that change nothing for the packet.
fn does_nothing(kind: &str) -> bool {
    ["counter", "log", "limit", "quota", "comment", "notrack", "ct helper", "flow", "set"].contains(&kind)
}

fn culprit((family, table, chain): &ChainId, rule: String) -> Culprit {
    Culprit {
        table: format!("{family} {table}"),
        chain: chain.clone(),
        rule,
        shown_by: format!("nft -a list chain {family} {table} {chain}"),
    }
}

/// The end of a rule by a verdict of a map.
fn end_of(verdict: &Value, by: impl Fn() -> Culprit) -> End {
    let Some((kind, body)) = verdict.as_object().and_then(|verdict| verdict.iter().next()) else { return End::Unknown };
    match kind.as_str() {
        "accept" => End::Verdict(Verdict::Accept),
        "drop" => End::Verdict(Verdict::Drop(by())),
        "return" => End::Return,
        "continue" => End::Next,
        "jump" => End::Jump(text(body, "target").to_owned()),
        "goto" => End::Goto(text(body, "target").to_owned()),
        _ => End::Unknown,
    }
}

/// An element without its comment, timeout and counter.
fn plain(element: &Value) -> &Value {
    element.get("elem").and_then(|inner| inner.get("val")).unwrap_or(element)
}

impl Chain {
    fn read(object: &Value) -> Self {
        let hook = match text(object, "hook") {
            "prerouting" => Some(Hook::Prerouting),
            "input" => Some(Hook::Input),
            "forward" => Some(Hook::Forward),
            "output" => Some(Hook::Output),
            "postrouting" => Some(Hook::Postrouting),
            _ => None,
        };
        let priority = object.get("prio").and_then(Value::as_i64).unwrap_or_default();
        Self {
            hook: hook.map(|hook| (hook, priority)),
            is_nat: text(object, "type") == "nat",
            drops: text(object, "policy") == "drop",
            rules: Vec::new(),
        }
    }
}

impl Set {
    fn read(elements: Option<&Value>) -> Self {
        let list = elements.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let elements = list.iter().map(|element| match element.as_array().map(Vec::as_slice) {
            Some([key, leads]) => (plain(key).clone(), Some(plain(leads).clone())),
            _ => (plain(element).clone(), None),
        });
        Self { elements: elements.collect() }
    }
}

/// Whether the value is what a single pattern says.
fn is_one(value: &Worth, pattern: &Value) -> Option<bool> {
    if let (Worth::Concat(parts), Some(patterns)) = (value, pattern.get("concat").and_then(Value::as_array)) {
        let each: Option<Vec<bool>> = parts.iter().zip(patterns).map(|(part, one)| is_one(part, plain(one))).collect();
        return each.map(|each| each.len() == patterns.len() && each.into_iter().all(|is| is));
    }
    if let Some(prefix) = pattern.get("prefix") {
        let length = u8::try_from(prefix.get("len")?.as_u64()?).ok()?;
        let network = IpNetwork::new(text(prefix, "addr").parse().ok()?, length).ok()?;
        return Some(matches!(value, Worth::Address(address) if network.contains(*address)));
    }
    if let Some([low, high]) = pattern.get("range").and_then(Value::as_array).map(Vec::as_slice) {
        return Some(match value {
            Worth::Number(number) => (low.as_u64()?..=high.as_u64()?).contains(number),
            Worth::Address(address) => {
                let end = |text: &Value| text.as_str()?.parse::<IpAddr>().ok();
                (end(low)?..=end(high)?).contains(address)
            }
            _ => return None,
        });
    }
    match (value, pattern) {
        (Worth::Number(number), Value::Number(wanted)) => Some(wanted.as_u64() == Some(*number)),
        (Worth::Address(address), Value::String(wanted)) => match wanted.parse::<IpAddr>() {
            Ok(wanted) => Some(*address == wanted),
            Err(_) => (wanted == "*").then_some(true),
        },
        (Worth::Text(text), Value::String(wanted)) => Some(match wanted.strip_suffix('*') {
            Some(start) => text.starts_with(start),
            None => text.eq_ignore_ascii_case(wanted),
        }),
        (Worth::Flags(flags), Value::String(wanted)) => Some(flags.contains(&wanted.as_str())),
        _ => None,
    }
}

fn combine(operator: &str, left: &Worth, right: &Worth) -> Option<Worth> {
    let (Worth::Number(left), Worth::Number(right)) = (left, right) else { return None };
    Some(Worth::Number(match operator {
        "&" => left & right,
        "|" => left | right,
        _ => left ^ right,
    }))
}

/// True if the packet has no such field, so that the kernel ends the rule.
fn lacks(expression: &Value, of: &Evaluation<'_>) -> bool {
    if let Some(parts) = expression.get("concat").and_then(Value::as_array) {
        return parts.iter().any(|part| lacks(part, of));
    }
    let Some(body) = expression.get("payload") else { return false };
    // Raw offsets name no protocol.
    body.get("protocol").is_some() && !has_header(text(body, "protocol"), of)
}

fn has_header(protocol: &str, of: &Evaluation<'_>) -> bool {
    match protocol {
        "ip" => of.packet.family() == Family::V4,
        "ip6" => of.packet.family() == Family::V6,
        "ether" => true,
        "th" => of.packet.protocol.is_some(),
        other => of.packet.protocol_name() == other,
    }
}

fn payload(body: &Value, of: &Evaluation<'_>) -> Option<Worth> {
    let (protocol, field) = (text(body, "protocol"), text(body, "field"));
    if !has_header(protocol, of) {
        return None;
    }
    let packet = &of.packet;
    Some(match field {
        "saddr" if protocol == "ether" => Worth::Text(packet.src_mac?.to_string()),
        "daddr" if protocol == "ether" => Worth::Text(packet.dst_mac?.to_string()),
        "saddr" => Worth::Address(packet.src.ip()),
        "daddr" => Worth::Address(packet.dst.ip()),
        "sport" => Worth::Number(packet.src.port().into()),
        "dport" => Worth::Number(packet.dst.port().into()),
        "protocol" | "nexthdr" => Worth::Text(packet.protocol_name().to_owned()),
        "length" => Worth::Number(packet.length.into()),
        _ => return None,
    })
}

fn meta(key: &str, of: &Evaluation<'_>) -> Option<Worth> {
    let packet = &of.packet;
    let name = |name: &Option<String>| Worth::Text(name.clone().unwrap_or_default());
    Some(match key {
        "iifname" | "iif" => name(&packet.iif),
        "oifname" | "oif" => name(&packet.oif),
        "l4proto" => Worth::Text(packet.protocol_name().to_owned()),
        "nfproto" => Worth::Text(if packet.family() == Family::V4 { "ipv4" } else { "ipv6" }.to_owned()),
        "protocol" => Worth::Text(name_of(packet.family()).to_owned()),
        "mark" => Worth::Number(packet.mark.into()),
        "length" => Worth::Number(packet.length.into()),
        _ => return None,
    })
}

fn ct(body: &Value, of: &Evaluation<'_>) -> Option<Worth> {
    let Some(ct) = &of.packet.ct else {
        return (text(body, "key") == "state").then(|| Worth::Flags(vec!["untracked"]));
    };
    let (source, destination) = ct.original;
    let is_original = text(body, "dir") == "original";
    Some(match text(body, "key") {
        "state" => Worth::Flags(vec![ct.state()]),
        "status" => {
            let flags = [(ct.dnat, "dnat"), (ct.snat, "snat"), (ct.answers.is_some(), "seen-reply")];
            Worth::Flags(flags.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect())
        }
        "direction" => Worth::Text(if ct.answers.is_some() { "reply" } else { "original" }.to_owned()),
        "mark" => Worth::Number(ct.mark.into()),
        "ip saddr" | "ip6 saddr" | "saddr" if is_original => Worth::Address(source.ip()),
        "ip daddr" | "ip6 daddr" | "daddr" if is_original => Worth::Address(destination.ip()),
        "proto-src" if is_original => Worth::Number(source.port().into()),
        "proto-dst" if is_original => Worth::Number(destination.port().into()),
        "l3proto" => Worth::Text(if of.packet.family() == Family::V4 { "ipv4" } else { "ipv6" }.to_owned()),
        "protocol" => Worth::Text(of.packet.protocol_name().to_owned()),
        _ => return None,
    })
}

/// `fib daddr type` and `fib saddr type`: whether an address is local.
fn fib(body: &Value, of: &Evaluation<'_>) -> Option<Worth> {
    let flags: Vec<&str> = match body.get("flags") {
        Some(Value::Array(flags)) => flags.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(flag)) => vec![flag],
        _ => return None,
    };
    let address = match flags.as_slice() {
        ["daddr"] => of.packet.dst.ip(),
        ["saddr"] => of.packet.src.ip(),
        _ => return None,
    };
    let kind = if of.around.is_local(address) { "local" } else { "unicast" };
    (text(body, "result") == "type").then(|| Worth::Text(kind.to_owned()))
}

/// An address, or an address and a port.
fn endpoint(to: &Value, port: u16) -> Option<SocketAddr> {
    match to.get("concat").and_then(Value::as_array).map(Vec::as_slice) {
        Some([address, port]) => {
            Some(SocketAddr::new(address.as_str()?.parse().ok()?, u16::try_from(port.as_u64()?).ok()?))
        }
        Some(_) => None,
        None => Some(SocketAddr::new(to.as_str()?.parse().ok()?, port)),
    }
}

/// `PROTOCOL . PORT : ADDRESS . PORT`, or with the node's address before it.
fn published(key: &Value, to: &Value, port: u16) -> Option<Published> {
    let parts = key.get("concat")?.as_array()?;
    let (address, protocol, number) = match parts.as_slice() {
        [protocol, number] => (None, protocol, number),
        [address, protocol, number] => (Some(address.as_str()?.parse().ok()?), protocol, number),
        _ => return None,
    };
    let to = endpoint(to, 0)?;
    let protocol = protocol.as_str()?.to_owned();
    (number.as_u64() == Some(port.into())).then_some(Published { address, protocol, to: Some(to) })
}

/// A rule such as `tcp dport 8080 dnat to 10.0.0.2:80`.
fn rule_publishes(statements: &[Value], port: u16) -> Option<Published> {
    let dnat = statements.iter().find_map(|statement| statement.get("dnat"))?;
    let dport = statements.iter().find_map(|statement| {
        let body = statement.get("match")?;
        let payload = body.get("left")?.get("payload")?;
        let is_it = text(payload, "field") == "dport" && body.get("right")?.as_u64() == Some(port.into());
        is_it.then(|| text(payload, "protocol").to_owned())
    })?;
    let to_port = dnat.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
    let to = dnat.get("addr").and_then(|addr| endpoint(addr, to_port.unwrap_or(port)));
    Some(Published { address: None, protocol: dport, to })
}
