//! `inet cni_firewall`: what may be forwarded, looked up in constant time with any number of containers.
//!
//! An accept ends only the base chain that it is in, so one in here could not undo a drop elsewhere. The chain `accepting`
//! therefore marks packets ([`MARK`]) for those who come after it: the rule of [`super::firewall_iptables`], and whatever
//! an administrator wants. `unmark` takes the mark away before anybody else can see it. A drop, on the other hand, is
//! final, so `isolate` needs nobody.

use std::net::IpAddr;

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, InetHookNumber, Meta, MetaKey, Operator, Register, Verdict,
    VerdictAttribute,
};

use super::element::{Found, SetId};
use super::expr::{self, Ip, Side, register};
use super::frame::{Base, Chain, Family, Frame, Rule, TableId};
use super::index;
use super::set::{DataType, Maps, Set};

pub(super) const TABLE: TableId = TableId { family: Family::Inet, name: "cni_firewall" };
const ACCEPT4: SetId = set("accept4");
const ACCEPT6: SetId = set("accept6");
const BEHIND4: SetId = set("behind4");
const BEHIND6: SetId = set("behind6");
/// What passes between two ports of a bridge that has a policy: to [`PASS`] or to [`REFUSE`].
pub(super) const INSIDE: SetId = set("inside");
/// The bridges that have a policy.
pub(super) const CLOSED: SetId = set("closed");
/// The sets whose elements belong to attachments, but for the index.
pub(super) const OWNED: [SetId; 4] = [ACCEPT4, ACCEPT6, BEHIND4, BEHIND6];

/// The administrator's chain. It is made empty and never touched again.
pub(super) const ADMIN: &str = "CNI-ADMIN";
pub(super) const PASS: &str = "pass";
pub(super) const REFUSE: &str = "refuse";
/// The bit of the packet mark that says "accepted". Kubernetes has 14 and 15, portmap 13, Calico and others 16 to 31,
/// and the low ones are everybody's.
pub(crate) const MARK: u32 = 1 << 12;
/// Before `NF_IP_PRI_FILTER` (0), where iptables and most others have their chains.
const ISOLATE: i32 = -20;
pub(super) const ACCEPT: i32 = -10;
/// After all others.
const UNMARK: i32 = 32_000;

/// `NF_ACCEPT`.
pub(super) const NF_ACCEPT: u32 = 1;
/// `NF_CT_STATE_BIT(IP_CT_ESTABLISHED)`, `NF_CT_STATE_BIT(IP_CT_RELATED)` (nf_conntrack_common.h).
const ESTABLISHED_OR_RELATED: u32 = 1 << 1 | 1 << 2;

const fn set(name: &'static str) -> SetId {
    SetId { table: TABLE, name }
}

/// The containers whose traffic is accepted.
pub(super) fn accepted(ip: Ip) -> SetId {
    match ip {
        Ip::V4 => ACCEPT4,
        Ip::V6 => ACCEPT6,
    }
}

/// Which bridge with a policy a container is behind. No packet is ever looked up in it: its elements keep the bridge's
/// chain alive, so that the kernel counts for us who is still there.
pub(super) fn behind(ip: Ip) -> SetId {
    match ip {
        Ip::V4 => BEHIND4,
        Ip::V6 => BEHIND6,
    }
}

/// The addresses whose accepts were removed.
pub(super) fn addresses(removed: &[(SetId, Found)]) -> Vec<IpAddr> {
    let v4 = |key: &[u8]| <[u8; 4]>::try_from(key).map(IpAddr::from);
    let v6 = |key: &[u8]| <[u8; 16]>::try_from(key).map(IpAddr::from);
    let accepts = removed.iter().filter(|(set, _)| [ACCEPT4, ACCEPT6].contains(set));
    accepts.filter_map(|(_, found)| v4(&found.key).or_else(|_| v6(&found.key)).ok()).collect()
}

/// `ct state` into slot 0, in host byte order.
fn ct_state() -> Expressions {
    /// `NFT_CT_STATE`.
    const STATE: u32 = 0;
    let number = |kind, value: u32| DefaultNla::new(kind, value.to_be_bytes().to_vec());
    // NFTA_CT_DREG, NFTA_CT_KEY
    let attributes = vec![number(1, register(0).into()), number(2, STATE)];
    Expressions::Other { expression_type: "ct".to_owned(), attributes }
}

/// Slot 0 becomes its bits in `mask`, with those of `xor` turned.
fn bits(mask: u32, xor: u32) -> Expressions {
    let bytes = |value: u32| DataAttribute::Value(value.to_ne_bytes().to_vec());
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(register(0)),
        Bitwise::DestinationRegister(register(0)),
        Bitwise::Length(4),
        Bitwise::Mask(bytes(mask)),
        Bitwise::Xor(bytes(xor)),
    ])
}

fn compared(op: Operator, value: u32) -> Expressions {
    let bytes = DataAttribute::Value(value.to_ne_bytes().to_vec());
    Expressions::Cmp(vec![Cmp::SourceRegister(register(0)), Cmp::Op(op), Cmp::Data(bytes)])
}

fn load_mark() -> Expressions {
    Expressions::Meta(vec![Meta::Key(MetaKey::Mark), Meta::DestinationRegister(register(0))])
}

/// `meta mark set meta mark & mask ^ xor`.
fn set_mark(mask: u32, xor: u32) -> [Expressions; 3] {
    let store = Expressions::Meta(vec![Meta::Key(MetaKey::Mark), Meta::SourceRegister(register(0))]);
    [load_mark(), bits(mask, xor), store]
}

/// `meta mark & MARK == MARK`.
pub(super) fn is_marked() -> [Expressions; 3] {
    [load_mark(), bits(MARK, 0), compared(Operator::Equal, MARK)]
}

fn verdict(verdict: Vec<VerdictAttribute>) -> Expressions {
    let data = DataAttribute::Verdict(verdict);
    Expressions::Immediate(vec![Immediate::DestinationRegister(Register::Verdict), Immediate::Data(data)])
}

/// `accept`.
pub(super) fn accept() -> Expressions {
    verdict(vec![VerdictAttribute::Code(Verdict::Other(NF_ACCEPT))])
}

pub(super) fn jump(chain: &str) -> Expressions {
    verdict(vec![VerdictAttribute::Code(Verdict::Jump), VerdictAttribute::Chain(chain.to_owned())])
}

fn load_name(key: MetaKey, slot: u32) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(register(slot))])
}

/// `<condition> <ip> saddr @accept4 meta mark set …`, or the same for the destination.
fn marking(condition: (&str, &[Expressions]), ip: Ip, side: Side, mark: (&str, [Expressions; 3])) -> Rule {
    let (set, word) = (accepted(ip).name, if side == Side::Source { "saddr" } else { "daddr" });
    // In the order in which nft would have it of the text.
    let mut expressions = condition.1.to_vec();
    expressions.extend(expr::only(ip));
    expressions.extend([expr::address(ip, side, 0), expr::is_in(set)]);
    expressions.extend(mark.1);
    Rule::new(format!("{}{} {word} @{set} meta mark set meta mark {}", condition.0, ip.word(), mark.0), expressions)
}

/// What the containers send, the replies to it, and what was published of them.
fn markings() -> Vec<Rule> {
    let replies = [ct_state(), bits(ESTABLISHED_OR_RELATED, 0), compared(Operator::NotEqual, 0)];
    let published = expr::has_been_forwarded();
    let conditions: [(&str, &[Expressions], Side); 3] = [
        ("", &[], Side::Source),
        ("ct state established,related ", &replies, Side::Destination),
        ("ct status dnat ", &published, Side::Destination),
    ];
    let mark = |ip| {
        let set = || ("| 0x00001000", set_mark(!MARK, MARK));
        conditions.map(|(text, condition, side)| marking((text, condition), ip, side, set()))
    };
    [Ip::V4, Ip::V6].into_iter().flat_map(mark).collect()
}

/// Whatever may have been marked is so no longer.
fn unmarkings() -> Vec<Rule> {
    let sides = [Side::Source, Side::Destination];
    let unmark = |ip| sides.map(|side| marking(("", &[]), ip, side, ("& 0xffffefff", set_mark(!MARK, 0))));
    [Ip::V4, Ip::V6].into_iter().flat_map(unmark).collect()
}

fn isolation() -> Vec<Rule> {
    let inside = [load_name(MetaKey::Iifname, 0), load_name(MetaKey::Oifname, 4), expr::verdict_of(INSIDE.name)];
    let between = [
        load_name(MetaKey::Iifname, 0),
        expr::is_in(CLOSED.name),
        load_name(MetaKey::Oifname, 0),
        expr::is_in(CLOSED.name),
        expr::drop(),
    ];
    vec![
        Rule::new("iifname . oifname vmap @inside", inside),
        Rule::new("iifname @closed oifname @closed drop", between),
    ]
}

/// The table with what all attachments share, but for the administrator's chain.
pub(super) fn frame() -> Frame {
    let addresses = |id: SetId, ip, maps, comment| Set { name: id.name, key: ip, maps, comment };
    let base = |name: &str, priority, rules| Chain {
        name: name.to_owned(),
        base: Some(Base { kind: "filter", hook: InetHookNumber::Forward, priority }),
        rules,
    };
    let end = |name: &str, text: &str, expression| Chain {
        name: name.to_owned(),
        base: None,
        rules: vec![Rule::new(text, [expression])],
    };
    let mut accept = vec![Rule::new(format!("jump {ADMIN}"), [jump(ADMIN)])];
    accept.extend(markings());
    const V4: &[DataType] = &[DataType::Address(Ip::V4)];
    const V6: &[DataType] = &[DataType::Address(Ip::V6)];
    Frame {
        table: TABLE,
        comment: "CNI plugins: what may be forwarded",
        sets: vec![
            addresses(ACCEPT4, V4, Maps::Nothing, "containers"),
            addresses(ACCEPT6, V6, Maps::Nothing, "containers"),
            addresses(BEHIND4, V4, Maps::ToVerdict, "container : bridge with a policy"),
            addresses(BEHIND6, V6, Maps::ToVerdict, "container : bridge with a policy"),
            Set {
                name: INSIDE.name,
                key: &[DataType::Interface, DataType::Interface],
                maps: Maps::ToVerdict,
                comment: "bridge . bridge : policy",
            },
            addresses(CLOSED, &[DataType::Interface], Maps::Nothing, "bridges with a policy"),
            index::set(),
        ],
        chains: vec![
            end(PASS, "return", expr::return_()),
            end(REFUSE, "drop", expr::drop()),
            base("isolate", ISOLATE, isolation()),
            base("accepting", ACCEPT, accept),
            base("unmark", UNMARK, unmarkings()),
        ],
        by_name: |_| None,
    }
}
