//! Ports that are published without translation: `inet cni_open_ports`. A connection that asks a container's own address at one of
//! them gets the mark of published connections, before a closed door ([`super::published_only`]) or an ingress policy could drop it.

use cni_plugin::{Difference, Family, NetworkName, Owner};
use netlink_packet_netfilter::nftables::{Expressions, InetHookNumber, MetaKey};

use super::owned::comment::is_stale;
use super::owned::{Failure, OwnedTable, Plan, apply, check, index, remove};
use super::ruleset::expression::{self as expr, Side};
use super::ruleset::{Chain, DataType, Element, Key, Maps, Rule, Set, SetId, Skeleton, Value, data};
use super::wire::{NftError, Table, TableFamily};
use super::{Nftables, PUBLISHED_MARK};
use crate::intent::{PortForward, PortForwards};

const TABLE: Table<'static> = Table { family: TableFamily::Inet, name: "cni_open_ports" };
const OPEN4: &str = "open4";
const OPEN6: &str = "open6";
pub(super) static OWNED: OwnedTable = OwnedTable { table: TABLE, sets: &[OPEN4, OPEN6], waitlist: None };
/// Before the closed door, after connection tracking.
const MARKING: i32 = -160;
/// After all others.
const UNMARKING: i32 = 32_000;

fn set_name(family: Family) -> &'static str {
    match family {
        Family::V4 => OPEN4,
        Family::V6 => OPEN6,
    }
}

/// `<ip> daddr . meta l4proto . th dport @open… meta mark set …`.
fn marking(family: Family, mark: [Expressions; 3]) -> Rule {
    let next = u32::from(family.bits()) / 32;
    let key = [
        expr::address(family, Side::Destination, 0),
        expr::meta(MetaKey::L4Proto, next),
        expr::port(Side::Destination, next + 1),
        expr::is_in(set_name(family)),
    ];
    expr::only(family).into_iter().chain(key).chain(mark).collect()
}

/// The table with what all containers share.
fn skeleton() -> Skeleton {
    use DataType::{Address, Port, Protocol};
    let set = |name, key| Set { name, key, maps: Maps::Nothing, comment: "container, its port" };
    let base = |name, hook, priority, mark: fn() -> [Expressions; 3]| {
        let rules = Family::ALL.map(|family| marking(family, mark())).to_vec();
        Chain::base(name, "filter", hook, priority, rules)
    };
    Skeleton {
        table: TABLE,
        comment: "CNI plugins: ports that are published without translation",
        sets: vec![
            set(OPEN4, &[Address(Family::V4), Protocol, Port]),
            set(OPEN6, &[Address(Family::V6), Protocol, Port]),
            index::set(),
        ],
        chains: vec![
            base("marking", InetHookNumber::PreRouting, MARKING, || expr::set_mark(!PUBLISHED_MARK, PUBLISHED_MARK)),
            base("unmark", InetHookNumber::Forward, UNMARKING, || expr::set_mark(!PUBLISHED_MARK, 0)),
        ],
        by_name: |_| None,
    }
}

fn key(port: &PortForward) -> Key {
    let (address, protocol) = (data::address(port.to.ip()), data::protocol(port.protocol));
    let bytes = [&address[..], &protocol, &data::port(port.to.port())].concat();
    Key::new(SetId { table: TABLE, name: set_name(Family::of(port.to.ip())) }, bytes)
}

fn keys(wanted: &[PortForwards]) -> Vec<Key> {
    wanted.iter().flat_map(|wanted| &wanted.ports).map(key).collect()
}

fn plan(wanted: &[PortForwards]) -> Result<Plan, NftError> {
    let mut plan = Plan::new(skeleton(), Vec::new());
    for PortForwards { owner, ports, .. } in wanted {
        plan.elements.extend(ports.iter().map(|port| Element {
            key: key(port),
            value: Value::Nothing,
            comment: owner.comment(),
            name: format!("open port {} {}", port.to, port.protocol),
        }));
        plan.register(&OWNED, owner, None);
    }
    plan.deduplicate()?;
    Ok(plan)
}

impl Nftables {
    /// Opens the containers' ports, intents of one owner. Idempotent; ports that the owner no longer wants are closed. An address
    /// that another owner had becomes this one's: IPAM gave it to it.
    ///
    /// # Errors
    /// [`NftError::Unusable`] if the kernel lacks what that needs; otherwise if it refuses.
    pub fn add_open_ports(&self, wanted: &[PortForwards]) -> Result<(), NftError> {
        let Some(PortForwards { owner, .. }) = wanted.first() else { return Ok(()) };
        let plan = plan(wanted)?;
        match apply::apply(&self.socket, &plan) {
            Err(Failure::Held(_)) => {
                remove::keys(&self.socket, &[&OWNED], &plan.keys(), &|comment| !owner.wrote(comment))?;
                Ok(apply::apply(&self.socket, &plan).map(drop)?)
            }
            Err(error) => self.can_open_ports().and(Err(error.into())),
            Ok(_) => Ok(()),
        }
    }

    /// What of [`Nftables::add_open_ports`] isn't there.
    ///
    /// # Errors
    /// Only if the kernel cannot be asked.
    pub fn check_open_ports(&self, wanted: &[PortForwards]) -> Result<Vec<Difference>, NftError> {
        check::check(&self.socket, &plan(wanted)?)
    }

    /// Closes the owner's ports. Idempotent. This takes constant time if `hints` are all that it has, or if it has none; else all
    /// elements are read.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_open_ports(&self, owner: &Owner, hints: &[PortForwards]) -> Result<(), NftError> {
        remove::of_owner(&self.socket, &[&OWNED], &keys(hints), owner).map(drop)
    }

    /// Closes the ports of owners of `network` that are not in `valid`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn retain_open_ports(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), NftError> {
        remove::matching(&self.socket, &[&OWNED], is_stale(network, valid)).map(drop)
    }

    /// Asks the kernel whether it can open ports; see [`Nftables::usable`].
    ///
    /// # Errors
    /// [`NftError::Unusable`] names what is missing.
    pub fn can_open_ports(&self) -> Result<(), NftError> {
        apply::refuse_foreign(&self.socket, skeleton())?;
        apply::rehearse(&self.socket, [&skeleton()])
            .map_err(|refused| refused.or_unusable("publish ports without translation", "nf_tables and nft_ct"))
    }

    /// What [`Nftables::add_open_ports`] makes in an empty network namespace. Asks the kernel nothing.
    ///
    /// # Errors
    /// As that has them before it turns to the kernel.
    pub fn print_open_ports(wanted: &[PortForwards]) -> Result<String, NftError> {
        Ok(plan(wanted)?.to_string())
    }
}
