//! The closed door: `inet cni_published_only`. What arrives for a container by another interface than its own link is dropped before
//! routing, unless it belongs to a connection that is established, or is marked as published.
//!
//! A drop is final, so neither an accept of another program nor a policy of `ACCEPT` opens the door. It lies after connection
//! tracking, which knows replies, and before the translation of destinations: what was published through the node's address still
//! has that address there, so a packet that has the container's asks the container directly.
//!
//! Published connections and their replies get a mark ([`PUBLISHED_MARK`]) before any ingress policy could drop them.

use std::net::IpAddr;

use cni_plugin::{Difference, Family, IfName, NetworkName, Owner};
use netlink_packet_netfilter::nftables::{Expressions, InetHookNumber, MetaKey, Operator};

use super::Nftables;
use super::owned::comment::is_stale;
use super::owned::{Failure, OwnedTable, Plan, apply, check, index, remove};
use super::ruleset::expression::{self as expr, Side};
use super::ruleset::{
    Chain, DataType, Element, Found, Key, Maps, Rule, Set, SetId, Skeleton, Value, chain, data, element,
};
use super::wire::{Batch, NftError, Table, TableFamily};
use crate::intent::PublishedOnly;

const TABLE: Table<'static> = Table { family: TableFamily::Inet, name: "cni_published_only" };
const CLOSED4: &str = "closed4";
const CLOSED6: &str = "closed6";
const CONTAINERS4: &str = "containers4";
const CONTAINERS6: &str = "containers6";
pub(super) static OWNED: OwnedTable =
    OwnedTable { table: TABLE, sets: &[CLOSED4, CLOSED6, CONTAINERS4, CONTAINERS6], waitlist: None };
/// Followed by a link: the chain for containers behind it.
const BEHIND: &str = "behind-";
/// How many rules such a chain has.
const BEHIND_RULES: u32 = 2;
/// The bit of the packet mark that says "published". The one above says "accepted".
pub(crate) const PUBLISHED_MARK: u32 = 1 << 11;
/// `NF_IP_PRI_MANGLE`: after connection tracking (-200), before destinations are translated (-100).
const CLOSING: i32 = -150;
/// Before the ingress policies.
const MARKING: i32 = -25;
/// After all others.
const UNMARKING: i32 = 32_000;

fn set_names(family: Family) -> [&'static str; 2] {
    match family {
        Family::V4 => [CLOSED4, CONTAINERS4],
        Family::V6 => [CLOSED6, CONTAINERS6],
    }
}

/// `<condition> <ip> saddr|daddr @containers… meta mark set …`.
fn marking(condition: &[Expressions], family: Family, side: Side, mark: [Expressions; 3]) -> Rule {
    let [_, containers] = set_names(family);
    let address = [expr::address(family, side, 0), expr::is_in(containers)];
    condition.iter().cloned().chain(expr::only(family)).chain(address).chain(mark).collect()
}

/// What was published, and all replies: the policies had their say when the connection began.
fn markings(family: Family) -> [Rule; 2] {
    let mark = || expr::set_mark(!PUBLISHED_MARK, PUBLISHED_MARK);
    [
        marking(&expr::destination_was_translated(), family, Side::Destination, mark()),
        marking(&expr::is_reply(), family, Side::Source, mark()),
    ]
}

fn unmarkings(family: Family) -> [Rule; 2] {
    [Side::Source, Side::Destination].map(|side| marking(&[], family, side, expr::set_mark(!PUBLISHED_MARK, 0)))
}

/// `<ip> daddr vmap @closed…`.
fn look_up(family: Family) -> Rule {
    let [closed, _] = set_names(family);
    let load = [expr::address(family, Side::Destination, 0), expr::verdict_of(closed)];
    expr::only(family).into_iter().chain(load).collect()
}

/// The table with what all containers share.
fn skeleton() -> Skeleton {
    const V4: &[DataType] = &[DataType::Address(Family::V4)];
    const V6: &[DataType] = &[DataType::Address(Family::V6)];
    let map = |name, key| Set { name, key, maps: Maps::ToVerdict, comment: "container : its link" };
    let set = |name, key| Set { name, key, maps: Maps::Nothing, comment: "containers" };
    let passing = |condition: [Expressions; 3]| condition.into_iter().chain([expr::return_()]).collect::<Rule>();
    let mut closing = vec![passing(expr::is_reply_or_related()), passing(expr::has_mark(PUBLISHED_MARK))];
    closing.extend(Family::ALL.map(look_up));
    let of_each = |rules: fn(Family) -> [Rule; 2]| Family::ALL.into_iter().flat_map(rules).collect();
    let base = |name, hook, priority, rules| Chain::base(name, "filter", hook, priority, rules);
    Skeleton {
        table: TABLE,
        comment: "CNI plugins: containers of which only published ports are reachable",
        sets: vec![map(CLOSED4, V4), map(CLOSED6, V6), set(CONTAINERS4, V4), set(CONTAINERS6, V6), index::set()],
        chains: vec![
            base("close", InetHookNumber::PreRouting, CLOSING, closing),
            base("marking", InetHookNumber::Forward, MARKING, of_each(markings)),
            base("unmark", InetHookNumber::Forward, UNMARKING, of_each(unmarkings)),
        ],
        by_name: |name| name.strip_prefix(BEHIND)?.parse().ok().map(|link| behind(&link)),
    }
}

/// The chain for containers behind `link`: what arrives by it passes, and nothing else.
fn behind(link: &IfName) -> Chain {
    let is_link = expr::compare(Operator::Equal, data::interface(link.as_str()));
    let passes = vec![expr::meta(MetaKey::Iifname, 0), is_link, expr::return_()];
    Chain::regular(format!("{BEHIND}{link}"), vec![passes, vec![expr::drop()]])
}

fn keys(address: IpAddr) -> [Key; 2] {
    set_names(Family::of(address)).map(|name| Key::new(SetId { table: TABLE, name }, data::address(address)))
}

fn plan(intent: &PublishedOnly) -> Result<Plan, NftError> {
    let chain = behind(&intent.link);
    let of_address = |address: &IpAddr| {
        let values = [Value::Goto(chain.name.clone()), Value::Nothing];
        let element = |(key, value)| Element {
            key,
            value,
            comment: intent.owner.comment(),
            name: format!("closed door of {address}"),
        };
        keys(*address).into_iter().zip(values).map(element).collect::<Vec<_>>()
    };
    let mut plan = Plan::new(skeleton(), intent.addresses.iter().flat_map(of_address).collect());
    plan.shared_chains.push((TABLE, chain));
    plan.register(&OWNED, &intent.owner, None);
    plan.deduplicate()?;
    Ok(plan)
}

impl Nftables {
    /// Closes the door of these addresses, and repairs what all containers share. Idempotent; one transaction.
    ///
    /// An address that another owner had becomes this one's: IPAM gave it to it.
    ///
    /// # Errors
    /// [`NftError::Unusable`] if the kernel lacks what that needs; otherwise if it refuses.
    pub fn add_published_only(&self, intent: &PublishedOnly) -> Result<(), NftError> {
        let plan = plan(intent)?;
        let of_others = |comment: &str| !intent.owner.wrote(comment);
        let before: Vec<Found> = element::look_up(&self.socket, &plan.keys())?.into_iter().flatten().collect();
        if before.iter().any(|found| of_others(&found.comment)) {
            remove::keys(&self.socket, &[&OWNED], &plan.keys(), &of_others)?;
        }
        let withdrawn = match apply::apply(&self.socket, &plan) {
            Err(Failure::Other(error)) => return self.can_close().and(Err(error)),
            outcome => outcome?,
        };
        self.repair(&plan)?;
        let mut left = remove::targets(&[before, withdrawn].concat(), TABLE);
        left.retain(|chain| plan.shared_chains.iter().all(|(_, wanted)| wanted.name != *chain));
        chain::delete_unused(&self.socket, TABLE, &left, BEHIND_RULES)
    }

    /// What of [`Nftables::add_published_only`] isn't there.
    ///
    /// # Errors
    /// Only if the kernel cannot be asked.
    pub fn check_published_only(&self, intent: &PublishedOnly) -> Result<Vec<Difference>, NftError> {
        check::check(&self.socket, &plan(intent)?)
    }

    /// For attachments of which nothing but the owner's key ([`Owner::key`]) is known: what all closed doors share and isn't there,
    /// and who has no closed door.
    ///
    /// # Errors
    /// Only if the kernel cannot be asked.
    pub fn check_closed_doors(&self, owner_keys: &[String]) -> Result<Vec<Difference>, NftError> {
        let mut differences = check::check(&self.socket, &Plan::new(skeleton(), Vec::new()))?;
        for key in owner_keys {
            if index::look_up(&self.socket, [TABLE], key)?.iter().all(Option::is_none) {
                differences
                    .push(Difference::missing(format!("closed door of the link with the alternative name cni-{key}")));
            }
        }
        Ok(differences)
    }

    /// Opens the owner's door. Idempotent. This takes constant time if `hint` are all addresses that it has, or if it has no
    /// door; else all elements are read.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_published_only(&self, owner: &Owner, hint: &[IpAddr]) -> Result<(), NftError> {
        let hints: Vec<Key> = hint.iter().copied().flat_map(keys).collect();
        let removed = remove::of_owner(&self.socket, &[&OWNED], &hints, owner)?;
        chain::delete_unused(&self.socket, TABLE, &remove::targets(&removed, TABLE), BEHIND_RULES)
    }

    /// Opens the doors of owners of `network` that are not in `valid`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn retain_published_only(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), NftError> {
        remove::matching(&self.socket, &[&OWNED], is_stale(network, valid))?;
        let chains = chain::starting_with(&self.socket, TABLE, BEHIND)?;
        chain::delete_unused(&self.socket, TABLE, &chains, BEHIND_RULES)
    }

    /// Asks the kernel whether it can close doors; see [`Nftables::usable`].
    ///
    /// # Errors
    /// [`NftError::Unusable`] names what is missing.
    pub fn can_close(&self) -> Result<(), NftError> {
        apply::refuse_foreign(&self.socket, skeleton())?;
        apply::rehearse(&self.socket, [&skeleton()])
            .map_err(|refused| refused.or_unusable("close ports that are not published", "nf_tables and nft_ct"))
    }

    /// Repairs chains that were emptied or changed by hand, of which [`apply::apply`] only notices that they aren't there.
    fn repair(&self, plan: &Plan) -> Result<(), NftError> {
        let mut shared = skeleton();
        shared.chains.extend(plan.shared_chains.iter().map(|(_, chain)| chain.clone()));
        if check::check(&self.socket, &Plan::new(shared.clone(), Vec::new()))?.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        shared.install(&mut batch);
        self.socket.commit(&batch, None)
    }

    /// What [`Nftables::add_published_only`] makes in an empty network namespace. Asks the kernel nothing.
    ///
    /// # Errors
    /// As that has them before it turns to the kernel.
    pub fn print_published_only(intent: &PublishedOnly) -> Result<String, NftError> {
        Ok(plan(intent)?.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent() -> PublishedOnly {
        let (network, container_id) = ("n".parse().unwrap(), "c1".parse().unwrap());
        let owner = Owner { network, container_id, ifname: "eth0".parse().unwrap() };
        let addresses = vec!["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        PublishedOnly { owner, addresses, link: "cni0".parse().unwrap() }
    }

    /// DEL knows the addresses, and not the link that their owner was behind.
    #[test]
    fn a_removal_looks_wherever_an_addition_has_put_an_address() {
        let hinted: Vec<Key> = intent().addresses.into_iter().flat_map(keys).collect();
        assert_eq!(plan(&intent()).unwrap().keys(), hinted);
    }

    #[test]
    fn a_links_chain_is_known_by_its_name() {
        let name = behind(&"cni0".parse().unwrap()).name;
        assert_eq!((skeleton().by_name)(&name).map(|chain| chain.rules.len()), Some(2));
        assert!((skeleton().by_name)("close").is_none());
    }
}
