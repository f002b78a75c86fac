//! The expressions that rules are made of, each with the words of the nft language that it stands for.
//!
//! Numbers are from `linux/netfilter/nf_tables.h`; they go over the wire in network byte order.

use std::net::IpAddr;

use cni_plugin::{Family, Protocol};
use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta, MetaKey, Operator, Payload, Register, Verdict,
    VerdictAttribute,
};

use super::data;
use crate::nftables::wire::{TableFamily, part};

/// `NFT_PAYLOAD_LL_HEADER`, `NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`.
const LINK: u32 = 0;
pub(crate) const NETWORK: u32 = 1;
pub(crate) const TRANSPORT: u32 = 2;
/// `NF_DROP`, `NF_ACCEPT`.
pub(crate) const DROP: u32 = 0;
pub(super) const ACCEPT: u32 = 1;
/// `RTN_LOCAL` (linux/rtnetlink.h).
pub(super) const LOCAL: u32 = 2;
/// `IPS_DST_NAT` (nf_conntrack_common.h).
pub(super) const DST_NAT: u32 = 1 << 5;
/// `NFT_NAT_SNAT`.
pub(super) const SOURCE_NAT: u32 = 0;
/// `IP_CT_DIR_REPLY` (nf_conntrack_tuple_common.h).
pub(super) const REPLY: u8 = 1;
/// `NF_CT_STATE_BIT(IP_CT_ESTABLISHED)`, `NF_CT_STATE_BIT(IP_CT_RELATED)` (nf_conntrack_common.h).
pub(super) const ESTABLISHED: u32 = 1 << 1;
pub(super) const RELATED: u32 = 1 << 2;
/// `NFT_CT_STATE`, `NFT_CT_DIRECTION`, `NFT_CT_STATUS`, `NFT_CT_PROTO_DST`.
pub(crate) const CT_STATE: u32 = 0;
pub(super) const CT_DIRECTION: u32 = 1;
pub(super) const CT_STATUS: u32 = 2;
pub(super) const CT_DESTINATION_PORT: u32 = 12;

/// Source or destination of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// Where an address is in the header of its family.
pub(crate) fn address_offset(family: Family, side: Side) -> u32 {
    match (family, side) {
        (Family::V4, Side::Source) => 12,
        (Family::V4, Side::Destination) => 16,
        (Family::V6, Side::Source) => 8,
        (Family::V6, Side::Destination) => 24,
    }
}

/// The register at a slot of 4 bytes. The kernel lists a slot at a multiple of 16 bytes by its old name
/// (`nft_dump_register`), so it is sent that way too and CHECK can compare.
pub(crate) fn register(slot: u32) -> Register {
    if slot.is_multiple_of(4) { (1 + slot / 4).into() } else { (8 + slot).into() }
}

/// The bytes of an attribute that isn't a verdict.
pub(crate) fn bytes_of(data: &DataAttribute) -> Option<&Vec<u8>> {
    if let DataAttribute::Value(bytes) = data { Some(bytes) } else { None }
}

/// The verdict that an expression ends with, and the chain that it leads to.
pub(crate) fn verdict_in(immediate: &[Immediate]) -> Option<(Verdict, Option<&str>)> {
    let DataAttribute::Verdict(parts) = part!(immediate, Immediate::Data)? else { return None };
    Some((*part!(parts, VerdictAttribute::Code)?, part!(parts, VerdictAttribute::Chain).map(String::as_str)))
}

fn value(bytes: impl Into<Vec<u8>>) -> DataAttribute {
    DataAttribute::Value(bytes.into())
}

/// Compares what starts at slot 0.
pub(crate) fn compare(op: Operator, bytes: impl Into<Vec<u8>>) -> Expressions {
    Expressions::Cmp(vec![Cmp::SourceRegister(register(0)), Cmp::Op(op), Cmp::Data(value(bytes))])
}

/// The same test turned into the opposite, of what ends in a test for equality.
pub(crate) fn negated(mut expressions: Vec<Expressions>) -> Vec<Expressions> {
    if let Some(Expressions::Cmp(parts)) = expressions.last_mut() {
        for part in parts.iter_mut().filter(|part| matches!(part, Cmp::Op(_))) {
            *part = Cmp::Op(Operator::NotEqual);
        }
    }
    expressions
}

/// What starts at slot 0 becomes its bits in `mask`, with those of `xor` inverted.
fn bitwise(mask: Vec<u8>, xor: Vec<u8>) -> Expressions {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(register(0)),
        Bitwise::DestinationRegister(register(0)),
        Bitwise::Length(u32::try_from(mask.len()).unwrap_or(0)),
        Bitwise::Mask(value(mask)),
        Bitwise::Xor(value(xor)),
    ])
}

/// `& <mask>`.
pub(crate) fn mask(mask: impl Into<Vec<u8>>) -> Expressions {
    let mask = mask.into();
    let zero = vec![0; mask.len()];
    bitwise(mask, zero)
}

fn load(base: u32, offset: u32, length: u8, slot: u32) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(register(slot)),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length.into()),
    ])
}

/// `meta <key>` into a slot: `iifname`, `oifname`, `meta mark`, `meta l4proto`.
pub(crate) fn meta(key: MetaKey, slot: u32) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(register(slot))])
}

/// `meta nfproto`: only packets of this family. In a table of family `inet`, `ip saddr` implies it.
pub(crate) fn only(family: Family) -> [Expressions; 2] {
    [meta(MetaKey::Nfproto, 0), compare(Operator::Equal, [TableFamily::from(family).number()])]
}

/// `ip saddr`, `ip6 daddr` and so on, into a slot.
pub(crate) fn address(family: Family, side: Side, slot: u32) -> Expressions {
    load(NETWORK, address_offset(family, side), family.bits() / 8, slot)
}

/// `ip saddr <address>/<prefix>`, exactly as `nft` puts it: a prefix of whole bytes is compared without a mask. So a rule
/// set that was listed and loaded again still compares equal.
pub(crate) fn address_in(side: Side, network: IpAddr, prefix: u8) -> Vec<Expressions> {
    let (family, mut bytes) = (Family::of(network), data::address(network));
    let masks: Vec<u8> = (0..bytes.len()).map(|index| byte_of_mask(prefix, index)).collect();
    for (byte, mask) in bytes.iter_mut().zip(&masks) {
        *byte &= mask;
    }
    if prefix > 0 && prefix.is_multiple_of(8) {
        bytes.truncate(usize::from(prefix / 8));
        return vec![load(NETWORK, address_offset(family, side), prefix / 8, 0), compare(Operator::Equal, bytes)];
    }
    vec![address(family, side, 0), mask(masks), compare(Operator::Equal, bytes)]
}

/// The byte at `index` of a mask with `prefix` leading ones.
fn byte_of_mask(prefix: u8, index: usize) -> u8 {
    let ones = usize::from(prefix).saturating_sub(8 * index).min(8);
    u8::try_from(0xff00_u16 >> ones & 0xff).unwrap_or(0)
}

/// `meta l4proto <protocol>`.
pub(crate) fn protocol_is(protocol: Protocol) -> [Expressions; 2] {
    [meta(MetaKey::L4Proto, 0), compare(Operator::Equal, [protocol.number()])]
}

/// `th sport` or `th dport` into a slot.
pub(crate) fn port(side: Side, slot: u32) -> Expressions {
    load(TRANSPORT, if side == Side::Source { 0 } else { 2 }, 2, slot)
}

/// `ether saddr` into a slot.
pub(crate) fn ethernet_source(slot: u32) -> Expressions {
    load(LINK, 6, 6, slot)
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

/// An expression that `netlink-packet-netfilter` has no type for.
fn other(name: &str, attributes: Vec<DefaultNla>) -> Expressions {
    Expressions::Other { expression_type: name.to_owned(), attributes }
}

/// `fib daddr type local`.
pub(crate) fn destination_is_local() -> [Expressions; 2] {
    /// `NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_DADDR`.
    const ADDRESS_TYPE: u32 = 3;
    const OF_DESTINATION: u32 = 1 << 1;
    // NFTA_FIB_DREG, NFTA_FIB_RESULT, NFTA_FIB_FLAGS
    let attributes = vec![number(1, register(0).into()), number(2, ADDRESS_TYPE), number(3, OF_DESTINATION)];
    [other("fib", attributes), compare(Operator::Equal, LOCAL.to_ne_bytes())]
}

/// At least one of these bits of `ct <key>`, which is in host byte order.
fn ct_has(key: u32, bits: u32) -> [Expressions; 3] {
    // NFTA_CT_DREG, NFTA_CT_KEY
    let load = other("ct", vec![number(1, register(0).into()), number(2, key)]);
    [load, mask(bits.to_ne_bytes()), compare(Operator::NotEqual, 0u32.to_ne_bytes())]
}

/// `ct status dnat`.
pub(crate) fn destination_was_translated() -> [Expressions; 3] {
    ct_has(CT_STATUS, DST_NAT)
}

/// `ct state established,related`.
pub(crate) fn is_reply_or_related() -> [Expressions; 3] {
    ct_has(CT_STATE, ESTABLISHED | RELATED)
}

/// `ct direction reply`.
pub(crate) fn is_reply() -> [Expressions; 2] {
    // NFTA_CT_DREG, NFTA_CT_KEY
    let load = other("ct", vec![number(1, register(0).into()), number(2, CT_DIRECTION)]);
    [load, compare(Operator::Equal, [REPLY])]
}

/// `ct original proto-dst` into a slot: the destination port before any translation.
pub(crate) fn original_port(slot: u32) -> Expressions {
    /// `IP_CT_DIR_ORIGINAL`.
    const ORIGINAL: u8 = 0;
    // NFTA_CT_DREG, NFTA_CT_KEY, NFTA_CT_DIRECTION
    let direction = DefaultNla::new(3, vec![ORIGINAL]);
    other("ct", vec![number(1, register(slot).into()), number(2, CT_DESTINATION_PORT), direction])
}

/// `meta mark & <bit> == <bit>`.
pub(crate) fn has_mark(bit: u32) -> [Expressions; 3] {
    [meta(MetaKey::Mark, 0), mask(bit.to_ne_bytes()), compare(Operator::Equal, bit.to_ne_bytes())]
}

/// `meta mark set meta mark & <mask> ^ <xor>`.
pub(crate) fn set_mark(mask: u32, xor: u32) -> [Expressions; 3] {
    let store = Expressions::Meta(vec![Meta::Key(MetaKey::Mark), Meta::SourceRegister(register(0))]);
    [meta(MetaKey::Mark, 0), bitwise(mask.to_ne_bytes().to_vec(), xor.to_ne_bytes().to_vec()), store]
}

/// `@set`: what starts at slot 0 is in it.
pub(crate) fn is_in(set: &str) -> Expressions {
    Expressions::Lookup(vec![Lookup::Set(set.to_owned()), Lookup::SourceRegister(register(0))])
}

/// `!= @set`: what starts at slot 0 is not in it.
pub(crate) fn is_not_in(set: &str) -> Expressions {
    /// `NFT_LOOKUP_F_INV`.
    const INVERTED: u32 = 1;
    Expressions::Lookup(vec![Lookup::Set(set.to_owned()), Lookup::SourceRegister(register(0)), Lookup::Flags(INVERTED)])
}

/// `vmap @set`: the verdict that it has for what starts at slot 0.
pub(crate) fn verdict_of(set: &str) -> Expressions {
    look_up(set, Register::Verdict)
}

fn look_up(set: &str, to: Register) -> Expressions {
    Expressions::Lookup(vec![
        Lookup::Set(set.to_owned()),
        Lookup::SourceRegister(register(0)),
        Lookup::DestinationRegister(to),
    ])
}

/// `dnat ip to <what starts at slot 0> map @<set>`: the set's value is an address and, in the next register, a port.
pub(crate) fn dnat(family: Family, set: &str) -> [Expressions; 2] {
    /// `NFT_NAT_DNAT`.
    const DESTINATION: u32 = 1;
    let (address, port) = (register(0), register(u32::from(family.bits()) / 32));
    let family = TableFamily::from(family).number();
    // NFTA_NAT_TYPE, NFTA_NAT_FAMILY, NFTA_NAT_REG_ADDR_MIN, NFTA_NAT_REG_PROTO_MIN
    let attributes =
        vec![number(1, DESTINATION), number(2, family.into()), number(3, address.into()), number(5, port.into())];
    [look_up(set, register(0)), other("nat", attributes)]
}

/// `snat ip to <address>`.
pub(crate) fn snat(to: IpAddr) -> [Expressions; 2] {
    let load = Expressions::Immediate(vec![
        Immediate::DestinationRegister(register(0)),
        Immediate::Data(value(data::address(to))),
    ]);
    let family = TableFamily::from(Family::of(to)).number();
    // NFTA_NAT_TYPE, NFTA_NAT_FAMILY, NFTA_NAT_REG_ADDR_MIN
    let attributes = vec![number(1, SOURCE_NAT), number(2, family.into()), number(3, register(0).into())];
    [load, other("nat", attributes)]
}

/// `numgen random mod <modulus>` into a slot: another number for each packet.
pub(crate) fn random(modulus: u32, slot: u32) -> Expressions {
    /// `NFT_NG_RANDOM`.
    const RANDOM: u32 = 1;
    // NFTA_NG_DREG, NFTA_NG_MODULUS, NFTA_NG_TYPE, NFTA_NG_OFFSET
    let attributes = vec![number(1, register(slot).into()), number(2, modulus), number(3, RANDOM), number(4, 0)];
    other("numgen", attributes)
}

/// `masquerade`.
pub(crate) fn masquerade() -> Expressions {
    other("masq", Vec::new())
}

/// `counter`.
pub(crate) fn counter() -> Expressions {
    let zero = |kind| DefaultNla::new(kind, 0u64.to_be_bytes().to_vec());
    // NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS
    other("counter", vec![zero(1), zero(2)])
}

fn verdict(verdict: DataAttribute) -> Expressions {
    Expressions::Immediate(vec![Immediate::DestinationRegister(Register::Verdict), Immediate::Data(verdict)])
}

fn code(code: Verdict) -> Expressions {
    verdict(DataAttribute::Verdict(vec![VerdictAttribute::Code(code)]))
}

/// `goto <chain>` as a verdict.
pub(crate) fn goto_verdict(chain: &str) -> DataAttribute {
    DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Goto), VerdictAttribute::Chain(chain.to_owned())])
}

/// `goto <chain>`.
pub(crate) fn goto(chain: &str) -> Expressions {
    verdict(goto_verdict(chain))
}

/// `jump <chain>`.
pub(crate) fn jump(chain: &str) -> Expressions {
    let parts = vec![VerdictAttribute::Code(Verdict::Jump), VerdictAttribute::Chain(chain.to_owned())];
    verdict(DataAttribute::Verdict(parts))
}

/// `return`.
pub(crate) fn return_() -> Expressions {
    code(Verdict::Return)
}

/// `drop`.
pub(crate) fn drop() -> Expressions {
    code(Verdict::Other(DROP))
}

/// `accept`.
pub(crate) fn accept() -> Expressions {
    code(Verdict::Other(ACCEPT))
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
