//! `inet cni_firewall`: what may be forwarded, looked up in constant time with any number of containers.
//!
//! An accept ends only the base chain that it is in, so one in here could not undo a drop in another table. The chain `accepting`
//! therefore marks packets ([`MARK`]) for the chains that come after it: the rule of [`super::iptables`], and those of an
//! administrator. `unmark` takes the mark away before anything else can see it. A drop, on the other hand, is
//! final, so `isolate` needs no other chain.

use cni_plugin::Family;
use netlink_packet_netfilter::nftables::{Expressions, InetHookNumber, MetaKey};

use crate::nftables::PUBLISHED_MARK;
use crate::nftables::owned::{OwnedTable, index};
use crate::nftables::ruleset::expression::{self as expr, Side};
use crate::nftables::ruleset::{Chain, DataType, Maps, Rule, Set, SetId, Skeleton};
use crate::nftables::wire::{Table, TableFamily};

pub(super) const TABLE: Table<'static> = Table { family: TableFamily::Inet, name: "cni_firewall" };
const ACCEPT4: &str = "accept4";
const ACCEPT6: &str = "accept6";
const BEHIND4: &str = "behind4";
const BEHIND6: &str = "behind6";
pub(in crate::nftables) static OWNED: OwnedTable =
    OwnedTable { table: TABLE, sets: &[ACCEPT4, ACCEPT6, BEHIND4, BEHIND6], waitlist: None };
/// What passes between two ports of a bridge that has a policy: to [`PASS`] or to [`REFUSE`].
pub(super) const INSIDE: SetId = SetId { table: TABLE, name: "inside" };
/// The bridges that have a policy.
pub(super) const CLOSED: SetId = SetId { table: TABLE, name: "closed" };

/// The administrator's chain. It is made empty and never touched again.
pub(super) const ADMIN: &str = "CNI-ADMIN";
pub(super) const PASS: &str = "pass";
pub(super) const REFUSE: &str = "refuse";
/// The chain that drops between bridges.
pub(super) const ISOLATE: &str = "isolate";
/// The bit of the packet mark that says "accepted". Kubernetes has 14 and 15, portmap 13, Calico and others 16 to 31,
/// and the low ones are widely used.
pub(crate) const MARK: u32 = 1 << 12;
/// Before `NF_IP_PRI_FILTER` (0), where iptables and most others have their chains.
const ISOLATING: i32 = -20;
pub(super) const ACCEPTING: i32 = -10;
/// After all others.
const UNMARKING: i32 = 32_000;

fn accept_name(family: Family) -> &'static str {
    match family {
        Family::V4 => ACCEPT4,
        Family::V6 => ACCEPT6,
    }
}

/// The containers whose traffic is accepted.
pub(super) fn accepted(family: Family) -> SetId {
    SetId { table: TABLE, name: accept_name(family) }
}

/// Which bridge with a policy a container is behind. No packet is ever looked up in it: its elements keep the bridge's
/// chain alive, so that the kernel counts who is still there.
pub(super) fn behind(family: Family) -> SetId {
    let name = match family {
        Family::V4 => BEHIND4,
        Family::V6 => BEHIND6,
    };
    SetId { table: TABLE, name }
}

/// `<condition> <ip> saddr @accept4 meta mark set …`, or the same for the destination. In the order in which nft puts it.
fn marking(condition: &[Expressions], family: Family, side: Side, mark: [Expressions; 3]) -> Rule {
    let address = [expr::address(family, side, 0), expr::is_in(accept_name(family))];
    condition.iter().cloned().chain(expr::only(family)).chain(address).chain(mark).collect()
}

/// What the containers send, the replies to it, and what was published of them.
fn markings() -> impl Iterator<Item = Rule> {
    let conditions = [
        (Vec::new(), Side::Source),
        (expr::is_reply_or_related().to_vec(), Side::Destination),
        (expr::destination_was_translated().to_vec(), Side::Destination),
    ];
    let mark = move |family| {
        let rule = |(condition, side): &(Vec<_>, _)| marking(condition, family, *side, expr::set_mark(!MARK, MARK));
        conditions.iter().map(rule).collect::<Vec<_>>()
    };
    Family::ALL.into_iter().flat_map(mark)
}

/// Takes the mark from all that may have been marked.
fn unmarkings() -> Vec<Rule> {
    let sides = [Side::Source, Side::Destination];
    let unmark = |family| sides.map(|side| marking(&[], family, side, expr::set_mark(!MARK, 0)));
    Family::ALL.into_iter().flat_map(unmark).collect()
}

/// `meta mark & … return` for what was published of containers of which only that is reachable; then
/// `iifname . oifname vmap @inside`, `iifname @closed oifname @closed drop`.
fn isolation() -> Vec<Rule> {
    let (incoming, outgoing) = (|| expr::meta(MetaKey::Iifname, 0), |slot| expr::meta(MetaKey::Oifname, slot));
    let is_closed = || expr::is_in(CLOSED.name);
    let is_published = expr::has_mark(PUBLISHED_MARK);
    vec![
        is_published.into_iter().chain([expr::return_()]).collect(),
        vec![incoming(), outgoing(4), expr::verdict_of(INSIDE.name)],
        vec![incoming(), is_closed(), outgoing(0), is_closed(), expr::drop()],
    ]
}

/// The table with what all attachments share, but for the administrator's chain.
pub(super) fn skeleton() -> Skeleton {
    const V4: &[DataType] = &[DataType::Address(Family::V4)];
    const V6: &[DataType] = &[DataType::Address(Family::V6)];
    let set = |name, key, maps, comment| Set { name, key, maps, comment };
    let (accepts, behind) = ("containers", "container : bridge with a policy");
    let base = |name, priority, rules| Chain::base(name, "filter", InetHookNumber::Forward, priority, rules);
    let is_published = expr::has_mark(PUBLISHED_MARK).into_iter().chain(expr::set_mark(!MARK, MARK)).collect();
    let accepting = [vec![expr::jump(ADMIN)], is_published].into_iter().chain(markings()).collect();
    Skeleton {
        table: TABLE,
        comment: "CNI plugins: what may be forwarded",
        sets: vec![
            set(ACCEPT4, V4, Maps::Nothing, accepts),
            set(ACCEPT6, V6, Maps::Nothing, accepts),
            set(BEHIND4, V4, Maps::ToVerdict, behind),
            set(BEHIND6, V6, Maps::ToVerdict, behind),
            set(INSIDE.name, &[DataType::Interface, DataType::Interface], Maps::ToVerdict, "bridge . bridge : policy"),
            set(CLOSED.name, &[DataType::Interface], Maps::Nothing, "bridges with a policy"),
            index::set(),
        ],
        chains: vec![
            Chain::regular(PASS, vec![vec![expr::return_()]]),
            Chain::regular(REFUSE, vec![vec![expr::drop()]]),
            base(ISOLATE, ISOLATING, isolation()),
            base("accepting", ACCEPTING, accepting),
            base("unmark", UNMARKING, unmarkings()),
        ],
        by_name: |_| None,
    }
}
