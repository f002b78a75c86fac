//! The tables of published ports, `ip cni_ports` and `ip6 cni_ports`: what all containers share.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use netlink_packet_netfilter::nftables::{Expressions, InetHookNumber};

use super::expr::{self, Ip, Side, register};
use super::frame::{Base, Chain, DSTNAT, Family, Frame, Rule, SRCNAT, TableId, subnet_chain, subnet_of};
use super::index;
use super::raw;
use super::set::{DataType, Maps, Set};
use crate::Protocol;

/// Published on every local address.
pub(super) const PORTS: &str = "ports";
/// Published on one address.
pub(super) const ADDRESS_PORTS: &str = "address_ports";
/// Ports in [`PORTS`] and [`ADDRESS_PORTS`] that are forwarded only if their owner's conditions hold.
pub(super) const CONDITIONS: &str = "conditions";
pub(super) const ADDRESS_CONDITIONS: &str = "address_conditions";
/// Ports that another attachment of the same container serves.
pub(super) const CLAIMS: &str = "claims";
/// Followed by the owner's key: its conditions.
pub(super) const WHEN: &str = "when-";
/// The chain that what is for this node goes through.
pub(super) const FORWARDS: &str = "forwards";
/// The chain that forwards when conditions hold.
pub(super) const TRANSLATE: &str = "translate";
/// Forwarded connections whose source is translated.
pub(super) const SOURCES: &str = "sources";
pub(super) const SETS: [&str; 6] = [PORTS, ADDRESS_PORTS, CONDITIONS, ADDRESS_CONDITIONS, SOURCES, CLAIMS];
pub(super) const SNAT_ALL: &str = "snat-all";
/// Followed by the subnet.
pub(super) const SNAT_LOCAL: &str = "snat-local-";
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// The table of a family.
pub(super) fn table(ip: Ip) -> TableId {
    TableId { family: Family::Only(ip), name: "cni_ports" }
}

/// The protocol's number (IANA), as in an IP header.
pub(crate) fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn sets(ip: Ip) -> Vec<Set> {
    use DataType::{Address, Mark, Port, Protocol};
    // Sets want types that live for ever, so both families are spelt out.
    type Types = &'static [DataType];
    let [by_address, target, source, claim]: [Types; 4] = match ip {
        Ip::V4 => [
            &[Address(Ip::V4), Protocol, Port],
            &[Address(Ip::V4), Port],
            &[Address(Ip::V4), Protocol, Port, Port],
            &[Address(Ip::V4), Protocol, Port, Mark],
        ],
        Ip::V6 => [
            &[Address(Ip::V6), Protocol, Port],
            &[Address(Ip::V6), Port],
            &[Address(Ip::V6), Protocol, Port, Port],
            &[Address(Ip::V6), Protocol, Port, Mark],
        ],
    };
    vec![
        Set { name: PORTS, key: &[Protocol, Port], maps: Maps::To(target), comment: "host port : container" },
        Set { name: ADDRESS_PORTS, key: by_address, maps: Maps::To(target), comment: "host address, port : container" },
        Set { name: CONDITIONS, key: &[Protocol, Port], maps: Maps::ToVerdict, comment: "host port : conditions" },
        Set { name: ADDRESS_CONDITIONS, key: by_address, maps: Maps::ToVerdict, comment: "the same with an address" },
        Set { name: SOURCES, key: source, maps: Maps::ToVerdict, comment: "container, its port, host port : sources" },
        Set { name: CLAIMS, key: claim, maps: Maps::To(target), comment: "host address, port, rank : container" },
        index::set(),
    ]
}

/// `dnat ip to <key> map @<set>`: the map's value is the address and, in the next register, the port.
fn forward(ip: Ip, key: &str, load: Vec<Expressions>, set: &str) -> Rule {
    let mut expressions = load;
    expressions.push(expr::value_of(set));
    expressions.push(raw::dnat(ip.number(), register(0), register(ip.length() / 4)));
    Rule::new(format!("dnat {} to {key} map @{set}", ip.word()), expressions)
}

/// What chooses the translation of a forwarded connection's source. One rule for each protocol, because `nft` can name
/// the original port only where the protocol is known.
fn source_of(ip: Ip, protocol: Protocol) -> Rule {
    let next = ip.length() / 4;
    let mut expressions = expr::has_been_forwarded().to_vec();
    expressions.extend(expr::protocol_is(number(protocol)));
    expressions.extend([
        expr::address(ip, Side::Destination, 0),
        expr::protocol(next),
        expr::port(next + 1),
        raw::ct_original_port(register(next + 2)),
        expr::verdict_of(SOURCES),
    ]);
    let text = format!(
        "ct status dnat {} daddr . meta l4proto . {protocol} dport . ct original proto-dst vmap @{SOURCES}",
        ip.word()
    );
    Rule::new(text, expressions)
}

/// The rules that forward, by address and port and then by port, each behind the one that asks for conditions.
fn forwarding(ip: Ip) -> [Rule; 4] {
    let next = ip.length() / 4;
    let address = vec![expr::address(ip, Side::Destination, 0), expr::protocol(next), expr::port(next + 1)];
    let port = vec![expr::protocol(0), expr::port(1)];
    let address_key = format!("{} daddr . meta l4proto . th dport", ip.word());
    let port_key = "meta l4proto . th dport";
    let ask = |key: &str, load: &[Expressions], set: &str| {
        Rule::new(format!("{key} vmap @{set}"), load.iter().cloned().chain([expr::verdict_of(set)]))
    };
    [
        ask(&address_key, &address, ADDRESS_CONDITIONS),
        forward(ip, &address_key, address, ADDRESS_PORTS),
        ask(port_key, &port, CONDITIONS),
        forward(ip, port_key, port, PORTS),
    ]
}

/// The chain of an owner with conditions: behind the `exceptions`, where one of `any` holds, it forwards. A connection for which none does has come
/// to the end of its way here, and is not forwarded.
pub(super) fn when(key: &str, exceptions: Vec<Rule>, conditions: &str, any: Vec<Vec<Expressions>>) -> Chain {
    let rule = |all: Vec<Expressions>| {
        Rule::new(format!("{conditions} goto {TRANSLATE}"), all.into_iter().chain([expr::goto(TRANSLATE)]))
    };
    Chain {
        name: format!("{WHEN}{key}"),
        base: None,
        rules: exceptions.into_iter().chain(any.into_iter().map(rule)).collect(),
    }
}

/// The table of a family with what all containers share.
pub(super) fn frame(ip: Ip) -> Frame {
    let base = |name: &str, hook, priority, rules| Chain {
        name: name.to_owned(),
        base: Some(Base { kind: "nat", hook, priority }),
        rules,
    };
    // Without this test, packets that are only passing through to the same port elsewhere were captured
    // (CVE-2025-67499).
    let to_us = || {
        let expressions = expr::destination_is_local().into_iter().chain([expr::goto(FORWARDS)]);
        vec![Rule::new("fib daddr type local goto forwards", expressions)]
    };
    let [ask_address, by_address, ask_port, by_port] = forwarding(ip);
    let translate = vec![by_address.clone(), by_port.clone()];
    // The more specific mapping decides, its conditions first.
    let forwards = vec![ask_address, by_address, ask_port, by_port];
    Frame {
        table: table(ip),
        comment: "CNI plugins: published ports",
        sets: sets(ip),
        chains: vec![
            Chain { name: FORWARDS.to_owned(), base: None, rules: forwards },
            Chain { name: TRANSLATE.to_owned(), base: None, rules: translate },
            Chain { name: SNAT_ALL.to_owned(), base: None, rules: vec![Rule::new("masquerade", [raw::masquerade()])] },
            base("prerouting", InetHookNumber::PreRouting, DSTNAT, to_us()),
            base("output", InetHookNumber::LocalOut, DSTNAT, to_us()),
            base("postrouting", InetHookNumber::PostRouting, SRCNAT, PROTOCOLS.map(|p| source_of(ip, p)).to_vec()),
        ],
        by_name: |name| subnet_of(SNAT_LOCAL, name).map(local_sources),
    }
}

/// The chain for forwarded connections to containers of `subnet`: those from the subnet itself and, in IPv4, from the
/// node's own loopback address get the node's address, so that replies come back through the node.
pub(super) fn local_sources(subnet: IpNetwork) -> Chain {
    let from = |address: IpAddr, prefix: u8| {
        let mut expressions = expr::address_in(Side::Source, address, prefix);
        expressions.push(raw::masquerade());
        Rule::new(format!("{} saddr {address}/{prefix} masquerade", Ip::of(address).word()), expressions)
    };
    let mut rules = vec![from(subnet.network(), subnet.prefix())];
    if subnet.is_ipv4() {
        rules.push(from(Ipv4Addr::LOCALHOST.into(), 32));
    }
    Chain { name: subnet_chain(SNAT_LOCAL, subnet), base: None, rules }
}
