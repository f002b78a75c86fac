//! The expressions that our rules are made of, each with the words of the nft language that it stands for.

use std::net::IpAddr;

use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta, MetaKey, Operator, Payload, Register, Verdict,
    VerdictAttribute,
};

use super::raw;

/// `NFT_PAYLOAD_LL_HEADER`, `NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`.
const LINK: u32 = 0;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// `NF_DROP`.
const DROP: u32 = 0;
/// `RTN_LOCAL` (linux/rtnetlink.h).
const LOCAL: u32 = 2;
/// `IPS_DST_NAT` (nf_conntrack_common.h).
const DST_NAT: u32 = 1 << 5;

/// Either address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Ip {
    V4,
    V6,
}

impl Ip {
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// How the nft language calls it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    /// Length of an address in bytes.
    pub(super) fn length(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    fn offset(self, side: Side) -> u32 {
        match (self, side) {
            (Self::V4, Side::Source) => 12,
            (Self::V4, Side::Destination) => 16,
            (Self::V6, Side::Source) => 8,
            (Self::V6, Side::Destination) => 24,
        }
    }
}

/// Which address of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Source,
    Destination,
}

/// The bytes of an address.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The register at a slot of 4 bytes. The kernel lists a slot at a multiple of 16 bytes by its old name
/// (`nft_dump_register`), so it is sent that way too and CHECK can compare.
pub(super) fn register(slot: u32) -> Register {
    if slot.is_multiple_of(4) { (1 + slot / 4).into() } else { (8 + slot).into() }
}

fn value(bytes: impl Into<Vec<u8>>) -> DataAttribute {
    DataAttribute::Value(bytes.into())
}

pub(super) fn compare(op: Operator, bytes: impl Into<Vec<u8>>) -> Expressions {
    Expressions::Cmp(vec![Cmp::SourceRegister(register(0)), Cmp::Op(op), Cmp::Data(value(bytes))])
}

pub(super) fn mask(mask: impl Into<Vec<u8>>) -> Expressions {
    let mask = mask.into();
    let (length, zero) = (mask.len(), vec![0; mask.len()]);
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(register(0)),
        Bitwise::DestinationRegister(register(0)),
        Bitwise::Length(u32::try_from(length).unwrap_or(0)),
        Bitwise::Mask(value(mask)),
        Bitwise::Xor(value(zero)),
    ])
}

fn load(base: u32, offset: u32, length: u32, slot: u32) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(register(slot)),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
}

pub(super) fn load_meta(key: MetaKey, slot: u32) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(register(slot))])
}

/// `meta nfproto`: only packets of this family. In a table of family `inet`, `ip saddr` implies it.
pub(super) fn only(ip: Ip) -> [Expressions; 2] {
    [load_meta(MetaKey::Nfproto, 0), compare(Operator::Equal, [ip.number()])]
}

/// `ip saddr`, `ip6 daddr` and so on, into a slot.
pub(super) fn address(ip: Ip, side: Side, slot: u32) -> Expressions {
    load(NETWORK, ip.offset(side), ip.length(), slot)
}

/// `ip saddr <address>/<prefix>`, exactly as `nft` puts it: a prefix of whole bytes is compared without a mask. So a rule
/// set that was listed and loaded again still compares equal.
pub(super) fn address_in(side: Side, network: IpAddr, prefix: u8) -> Vec<Expressions> {
    let (ip, mut bytes) = (Ip::of(network), octets(network));
    let masks: Vec<u8> = (0..bytes.len()).map(|index| byte_of_mask(prefix, index)).collect();
    for (byte, mask) in bytes.iter_mut().zip(&masks) {
        *byte &= mask;
    }
    if prefix > 0 && prefix.is_multiple_of(8) {
        bytes.truncate(usize::from(prefix / 8));
        return vec![load(NETWORK, ip.offset(side), u32::from(prefix / 8), 0), compare(Operator::Equal, bytes)];
    }
    vec![address(ip, side, 0), mask(masks), compare(Operator::Equal, bytes)]
}

/// The opposite of what ends in a test for equality.
pub(super) fn unlike(mut expressions: Vec<Expressions>) -> Vec<Expressions> {
    if let Some(Expressions::Cmp(parts)) = expressions.last_mut() {
        for part in parts.iter_mut().filter(|part| matches!(part, Cmp::Op(_))) {
            *part = Cmp::Op(Operator::NotEqual);
        }
    }
    expressions
}

/// The byte at `index` of a mask with `prefix` leading ones.
fn byte_of_mask(prefix: u8, index: usize) -> u8 {
    let ones = usize::from(prefix).saturating_sub(8 * index).min(8);
    u8::try_from(0xff00_u16 >> ones & 0xff).unwrap_or(0)
}

/// `meta l4proto <number>`.
pub(super) fn protocol_is(number: u8) -> [Expressions; 2] {
    [load_meta(MetaKey::L4Proto, 0), compare(Operator::Equal, [number])]
}

/// `meta l4proto` into a slot.
pub(super) fn protocol(slot: u32) -> Expressions {
    load_meta(MetaKey::L4Proto, slot)
}

/// `th dport` into a slot.
pub(super) fn port(slot: u32) -> Expressions {
    port_of(Side::Destination, slot)
}

/// `th sport` or `th dport` into a slot.
pub(super) fn port_of(side: Side, slot: u32) -> Expressions {
    let offset = if side == Side::Source { 0 } else { 2 };
    load(TRANSPORT, offset, 2, slot)
}

/// `iifname` into slot 0.
pub(super) fn incoming_interface() -> Expressions {
    load_meta(MetaKey::Iifname, 0)
}

/// `iifname != "<name>"`. A packet of the node's own has no incoming interface, and so another one than `name`.
pub(super) fn arrived_by_another_interface_than(name: &str) -> [Expressions; 2] {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    [incoming_interface(), compare(Operator::NotEqual, bytes)]
}

/// `ether saddr` into a slot.
pub(super) fn ethernet_source(slot: u32) -> Expressions {
    load(LINK, 6, 6, slot)
}

/// `fib daddr type local`.
pub(super) fn destination_is_local() -> [Expressions; 2] {
    [raw::fib_daddr_type(register(0)), compare(Operator::Equal, LOCAL.to_ne_bytes())]
}

/// `ct status dnat`.
pub(super) fn has_been_forwarded() -> [Expressions; 3] {
    [raw::ct_status(register(0)), mask(DST_NAT.to_ne_bytes()), compare(Operator::NotEqual, 0u32.to_ne_bytes())]
}

/// `@set`: what starts at slot 0 is in it.
pub(super) fn is_in(set: &str) -> Expressions {
    Expressions::Lookup(vec![Lookup::Set(set.to_owned()), Lookup::SourceRegister(register(0))])
}

/// `!= @set`: what starts at slot 0 is not in it.
pub(super) fn is_not_in(set: &str) -> Expressions {
    /// `NFT_LOOKUP_F_INV`.
    const INVERTED: u32 = 1;
    Expressions::Lookup(vec![Lookup::Set(set.to_owned()), Lookup::SourceRegister(register(0)), Lookup::Flags(INVERTED)])
}

/// `vmap @set`: the verdict that it has for what starts at slot 0.
pub(super) fn verdict_of(set: &str) -> Expressions {
    look_up(set, Register::Verdict)
}

/// `map @set`: its value for what starts at slot 0 replaces that.
pub(super) fn value_of(set: &str) -> Expressions {
    look_up(set, register(0))
}

fn look_up(set: &str, to: Register) -> Expressions {
    Expressions::Lookup(vec![
        Lookup::Set(set.to_owned()),
        Lookup::SourceRegister(register(0)),
        Lookup::DestinationRegister(to),
    ])
}

/// `goto <chain>` as a verdict.
pub(super) fn goto_verdict(chain: &str) -> DataAttribute {
    DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Goto), VerdictAttribute::Chain(chain.to_owned())])
}

fn verdict(verdict: DataAttribute) -> Expressions {
    Expressions::Immediate(vec![Immediate::DestinationRegister(Register::Verdict), Immediate::Data(verdict)])
}

/// `goto <chain>`.
pub(super) fn goto(chain: &str) -> Expressions {
    verdict(goto_verdict(chain))
}

/// `return`.
pub(super) fn return_() -> Expressions {
    verdict(DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Return)]))
}

/// `drop`.
pub(super) fn drop() -> Expressions {
    verdict(DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(DROP))]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_leading_ones() {
        let mask = |prefix| (0..4).map(|index| byte_of_mask(prefix, index)).collect::<Vec<_>>();
        assert_eq!(mask(0), [0, 0, 0, 0]);
        assert_eq!(mask(20), [255, 255, 0xf0, 0]);
        assert_eq!(mask(31), [255, 255, 255, 0xfe]);
        assert_eq!(mask(32), [255, 255, 255, 255]);
    }

    #[test]
    fn registers_are_named_as_the_kernel_lists_them() {
        // linux/netfilter/nf_tables.h: NFT_REG_1 = 1 … NFT_REG_4 = 4, NFT_REG32_00 = 8 … NFT_REG32_15 = 23.
        let numbers: Vec<u32> = [0, 1, 3, 4, 5, 8].map(|slot| register(slot).into()).to_vec();
        assert_eq!(numbers, [1, 9, 11, 2, 13, 3]);
    }
}
