//! The tables of published ports, `ip cni_ports` and `ip6 cni_ports`: what all containers share.

use std::net::{IpAddr, Ipv4Addr};

use cni_plugin::{Family, Protocol};
use ipnetwork::IpNetwork;
use netlink_packet_netfilter::nftables::{Expressions, InetHookNumber, MetaKey};

use super::elements::{
    ADDRESS_CONDITIONS, ADDRESS_MEMBERS, ADDRESS_PORTS, ADDRESS_SHARES, CONDITIONS, MEMBERS, NAME, PORTS, SHARES,
    SOURCES, WAITLIST, describe, table,
};
use crate::nftables::owned::{Awaited, OwnedTable, Shared, Waitlist, index};
use crate::nftables::ruleset::chain::{DSTNAT, SRCNAT};
use crate::nftables::ruleset::expression::{self as expr, Side};
use crate::nftables::ruleset::{Chain, DataType, Maps, Rule, Set, Skeleton, chain};
use crate::nftables::wire::{Table, TableFamily};

/// Followed by the owner's key: its conditions.
pub(super) const WHEN: &str = "when-";
/// The chain of packets for this node.
pub(super) const FORWARDS: &str = "forwards";
/// The chain that forwards when conditions hold.
pub(super) const TRANSLATE: &str = "translate";
pub(super) const SNAT_ALL: &str = "snat-all";
/// Followed by the subnet.
pub(super) const SNAT_LOCAL: &str = "snat-local-";

/// Followed by the number of members of a share: what takes one of them.
const ANY_OF: &str = "any-of-";
const ADDRESS_ANY_OF: &str = "address-any-of-";

const fn on_all(family: Family) -> Shared {
    let chain: fn(u32) -> Chain = match family {
        Family::V4 => |count| any_of(Family::V4, count),
        Family::V6 => |count| any_of(Family::V6, count),
    };
    Shared { choices: SHARES, members: MEMBERS, any_of: ANY_OF, chain }
}

const fn on_address(family: Family) -> Shared {
    let chain: fn(u32) -> Chain = match family {
        Family::V4 => |count| address_any_of(Family::V4, count),
        Family::V6 => |count| address_any_of(Family::V6, count),
    };
    Shared { choices: ADDRESS_SHARES, members: ADDRESS_MEMBERS, any_of: ADDRESS_ANY_OF, chain }
}

const fn owned(family: Family) -> OwnedTable {
    let (of, padding) = match family {
        Family::V4 => (TableFamily::Ip, 4),
        Family::V6 => (TableFamily::Ip6, 16),
    };
    OwnedTable {
        table: Table { family: of, name: NAME },
        sets: &[
            PORTS,
            ADDRESS_PORTS,
            CONDITIONS,
            ADDRESS_CONDITIONS,
            SOURCES,
            WAITLIST,
            SHARES,
            ADDRESS_SHARES,
            MEMBERS,
            ADDRESS_MEMBERS,
        ],
        waitlist: Some(Waitlist {
            set: WAITLIST,
            // The keys of the waitlist begin with a host address: `0.0.0.0` or `::` for a port on all.
            awaited: [
                Awaited { set: PORTS, padding, companions: CONDITIONS, shared: on_all(family) },
                Awaited { set: ADDRESS_PORTS, padding: 0, companions: ADDRESS_CONDITIONS, shared: on_address(family) },
            ],
            own_chain: WHEN,
            describe,
        }),
    }
}

static OWNED4: OwnedTable = owned(Family::V4);
static OWNED6: OwnedTable = owned(Family::V6);
pub(in crate::nftables) static OWNED: [&OwnedTable; 2] = [&OWNED4, &OWNED6];

/// The table of a family.
pub(super) fn owned_table(family: Family) -> &'static OwnedTable {
    match family {
        Family::V4 => &OWNED4,
        Family::V6 => &OWNED6,
    }
}

fn sets(family: Family) -> Vec<Set> {
    use DataType::{Address, Mark, Number, Port, Protocol};
    // A set borrows its types for ever, so both families are spelt out.
    type Types = &'static [DataType];
    let [by_address, target, source, waiting, member]: [Types; 5] = match family {
        Family::V4 => [
            &[Address(Family::V4), Protocol, Port],
            &[Address(Family::V4), Port],
            &[Address(Family::V4), Protocol, Port, Port],
            &[Address(Family::V4), Protocol, Port, Mark],
            &[Address(Family::V4), Protocol, Port, Number],
        ],
        Family::V6 => [
            &[Address(Family::V6), Protocol, Port],
            &[Address(Family::V6), Port],
            &[Address(Family::V6), Protocol, Port, Port],
            &[Address(Family::V6), Protocol, Port, Mark],
            &[Address(Family::V6), Protocol, Port, Number],
        ],
    };
    let set = |name, key, maps, comment| Set { name, key, maps, comment };
    vec![
        set(PORTS, &[Protocol, Port], Maps::To(target), "host port : container"),
        set(ADDRESS_PORTS, by_address, Maps::To(target), "host address, port : container"),
        set(CONDITIONS, &[Protocol, Port], Maps::ToVerdict, "host port : conditions"),
        set(ADDRESS_CONDITIONS, by_address, Maps::ToVerdict, "the same with an address"),
        set(SOURCES, source, Maps::ToVerdict, "container, its port, host port : sources"),
        set(WAITLIST, waiting, Maps::To(target), "host address, port, rank : container"),
        set(SHARES, &[Protocol, Port], Maps::ToVerdict, "host port : how many share it"),
        set(ADDRESS_SHARES, by_address, Maps::ToVerdict, "the same with an address"),
        set(MEMBERS, &[Protocol, Port, Number], Maps::To(target), "host port, rank : container"),
        set(ADDRESS_MEMBERS, member, Maps::To(target), "the same with an address"),
        index::set(),
    ]
}

/// What chooses the translation of a forwarded connection's source. One rule for each protocol, because `nft` can name
/// the original port only where the protocol is known.
fn source_of(family: Family, protocol: Protocol) -> Rule {
    let next = u32::from(family.bits()) / 32;
    let mut rule = expr::destination_was_translated().to_vec();
    rule.extend(expr::protocol_is(protocol));
    rule.extend([
        expr::address(family, Side::Destination, 0),
        expr::meta(MetaKey::L4Proto, next),
        expr::port(Side::Destination, next + 1),
        expr::original_port(next + 2),
        expr::verdict_of(SOURCES),
    ]);
    rule
}

/// What loads the key of a map by port, from a slot on.
fn port_key(slot: u32) -> [Expressions; 2] {
    [expr::meta(MetaKey::L4Proto, slot), expr::port(Side::Destination, slot + 1)]
}

/// What loads the key of a map by address and port.
fn address_key(family: Family) -> Vec<Expressions> {
    let address = [expr::address(family, Side::Destination, 0)];
    address.into_iter().chain(port_key(u32::from(family.bits()) / 32)).collect()
}

fn rule(head: impl IntoIterator<Item = Expressions>, end: impl IntoIterator<Item = Expressions>) -> Rule {
    head.into_iter().chain(end).collect()
}

/// The table of a family with what all containers share.
pub(crate) fn skeleton(family: Family) -> Skeleton {
    let base = |name: &str, hook, priority, rules| Chain::base(name, "nat", hook, priority, rules);
    // Without this test, packets that are only passing through to the same port of another host were captured
    // (CVE-2025-67499).
    let to_this_node = || vec![rule(expr::destination_is_local(), [expr::goto(FORWARDS)])];
    let by_address = rule(address_key(family), expr::dnat(family, ADDRESS_PORTS));
    let by_port = rule(port_key(0), expr::dnat(family, PORTS));
    let shared_by_address = rule(address_key(family), [expr::verdict_of(ADDRESS_SHARES)]);
    let shared_by_port = rule(port_key(0), [expr::verdict_of(SHARES)]);
    // The more specific mapping decides, its conditions first.
    let forwards = vec![
        rule(address_key(family), [expr::verdict_of(ADDRESS_CONDITIONS)]),
        shared_by_address.clone(),
        by_address.clone(),
        rule(port_key(0), [expr::verdict_of(CONDITIONS)]),
        shared_by_port.clone(),
        by_port.clone(),
    ];
    let translate = vec![shared_by_address, by_address, shared_by_port, by_port];
    let sources = Protocol::ALL.map(|protocol| source_of(family, protocol)).to_vec();
    Skeleton {
        table: table(family),
        comment: "CNI plugins: published ports",
        sets: sets(family),
        chains: vec![
            Chain::regular(FORWARDS, forwards),
            Chain::regular(TRANSLATE, translate),
            Chain::regular(SNAT_ALL, vec![vec![expr::masquerade()]]),
            base("prerouting", InetHookNumber::PreRouting, DSTNAT, to_this_node()),
            base("output", InetHookNumber::LocalOut, DSTNAT, to_this_node()),
            base("postrouting", InetHookNumber::PostRouting, SRCNAT, sources),
        ],
        by_name: match family {
            Family::V4 => |name| by_name(Family::V4, name),
            Family::V6 => |name| by_name(Family::V6, name),
        },
    }
}

fn by_name(family: Family, name: &str) -> Option<Chain> {
    let sources = chain::subnet_of(SNAT_LOCAL, name).map(local_sources);
    let of = |shared: Shared| shared.count_in(name).map(shared.chain);
    sources.or_else(|| of(on_all(family))).or_else(|| of(on_address(family)))
}

/// The chain that takes one of so many members of a port. Where that one is just being removed, the port's holder.
pub(super) fn any_of(family: Family, count: u32) -> Chain {
    let key = port_key(0).into_iter().chain([expr::random(count, 2)]);
    let rules = vec![rule(key, expr::dnat(family, MEMBERS)), rule(port_key(0), expr::dnat(family, PORTS))];
    Chain::regular(format!("{ANY_OF}{count}"), rules)
}

/// The same for a port on an address.
fn address_any_of(family: Family, count: u32) -> Chain {
    let rank = u32::from(family.bits()) / 32 + 2;
    let key = address_key(family).into_iter().chain([expr::random(count, rank)]);
    let rules = vec![
        rule(key, expr::dnat(family, ADDRESS_MEMBERS)),
        rule(address_key(family), expr::dnat(family, ADDRESS_PORTS)),
    ];
    Chain::regular(format!("{ADDRESS_ANY_OF}{count}"), rules)
}

/// The chain for forwarded connections to containers of `subnet`: those from the subnet itself and, in IPv4, from the
/// node's own loopback address get the node's address, so that replies come back through the node.
pub(super) fn local_sources(subnet: IpNetwork) -> Chain {
    let from = |address: IpAddr, prefix| rule(expr::address_in(Side::Source, address, prefix), [expr::masquerade()]);
    let mut rules = vec![from(subnet.network(), subnet.prefix())];
    if subnet.is_ipv4() {
        rules.push(from(Ipv4Addr::LOCALHOST.into(), 32));
    }
    Chain::regular(chain::subnet_name(SNAT_LOCAL, subnet), rules)
}
