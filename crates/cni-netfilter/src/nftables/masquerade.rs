//! Masquerading: `inet cni_masquerade`. One lookup of the source address leads to a chain for the container's subnet,
//! so a packet costs the same with any number of containers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni_plugin::{Difference, NetworkName, Owner};
use ipnetwork::IpNetwork;
use netlink_packet_netfilter::nftables::InetHookNumber;

use super::apply;
use super::comment::{holder, same_owner};
use super::element::{self, Element, Found, SetId, Value};
use super::error::NftError;
use super::expr::{self, Ip, Side};
use super::frame::{self, Base, Chain, Family, Frame, Rule, TableId, subnet_chain};
use super::plan::{Failure, Held, Plan};
use super::set::{DataType, Maps, Set};
use super::{Nftables, chains, check, index, legacy, raw, remove, valid_keys};
use crate::{FormerHolders, Masquerade};

const TABLE: TableId = TableId { family: Family::Inet, name: "cni_masquerade" };
const HOSTS4: SetId = SetId { table: TABLE, name: "hosts4" };
const HOSTS6: SetId = SetId { table: TABLE, name: "hosts6" };
const SETS: [SetId; 2] = [HOSTS4, HOSTS6];
const SUBNET: &str = "subnet-";
/// How many rules the chain of a subnet has.
const SUBNET_RULES: u32 = 2;

fn hosts(ip: Ip) -> SetId {
    match ip {
        Ip::V4 => HOSTS4,
        Ip::V6 => HOSTS6,
    }
}

/// `<ip> daddr <address>/<prefix> return`.
fn spare(address: IpAddr, prefix: u8) -> Rule {
    let ip = Ip::of(address);
    let mut expressions = expr::only(ip).to_vec();
    expressions.extend(expr::address_in(Side::Destination, address, prefix));
    expressions.push(expr::return_());
    Rule::new(format!("{} daddr {address}/{prefix} return", ip.word()), expressions)
}

/// The table with what all containers share.
pub(super) fn frame() -> Frame {
    let set = |id: SetId, key| Set { name: id.name, key, maps: Maps::ToVerdict, comment: "container : subnet" };
    let look_up = |ip: Ip| {
        let load = [expr::address(ip, Side::Source, 0), expr::verdict_of(hosts(ip).name)];
        let text = format!("{} saddr vmap @{}", ip.word(), hosts(ip).name);
        Rule::new(text, expr::only(ip).into_iter().chain(load))
    };
    let multicast4 = spare(Ipv4Addr::new(224, 0, 0, 0).into(), 4);
    let multicast6 = spare(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8);
    Frame {
        table: TABLE,
        comment: "CNI plugins: masquerading",
        sets: vec![set(HOSTS4, &[DataType::Address(Ip::V4)]), set(HOSTS6, &[DataType::Address(Ip::V6)]), index::set()],
        chains: vec![Chain {
            name: "postrouting".to_owned(),
            base: Some(Base { kind: "nat", hook: InetHookNumber::PostRouting, priority: frame::SRCNAT }),
            rules: vec![multicast4, multicast6, look_up(Ip::V4), look_up(Ip::V6)],
        }],
        by_name: |name| frame::subnet_of(SUBNET, name).map(subnet_rules),
    }
}

/// The chain for containers of `subnet`: what stays in it is left alone, the rest leaves with the node's address.
fn subnet_rules(subnet: IpNetwork) -> Chain {
    Chain {
        name: subnet_chain(SUBNET, subnet),
        base: None,
        rules: vec![spare(subnet.network(), subnet.prefix()), Rule::new("masquerade", [raw::masquerade()])],
    }
}

pub(super) fn plan(intents: &[Masquerade]) -> Result<Plan, NftError> {
    let mut plan = Plan { frames: vec![frame()], ..Plan::default() };
    let mut subnets = BTreeSet::new();
    for intent in intents {
        if intent.address.is_ipv4() != intent.subnet.is_ipv4() {
            return Err(NftError::Family { thing: intent.address.to_string(), to: intent.subnet.to_string() });
        }
        let chain = subnet_rules(intent.subnet);
        plan.elements.push(Element {
            set: hosts(Ip::of(intent.address)),
            key: expr::octets(intent.address),
            value: Value::Goto(chain.name.clone()),
            comment: intent.owner.comment(),
            name: format!("masquerading of {}", intent.address),
        });
        plan.register(TABLE, &intent.owner, None);
        if subnets.insert(chain.name.clone()) {
            plan.chains.push((TABLE, chain));
        }
    }
    plan.deduplicate()?;
    Ok(plan)
}

/// The chains that removed elements led to.
pub(super) fn targets(removed: &[(SetId, Found)], table: TableId) -> Vec<String> {
    let names: BTreeSet<_> = removed
        .iter()
        .filter(|(set, _)| set.table == table)
        .filter_map(|(_, found)| if let Value::Goto(chain) = &found.value { Some(chain.clone()) } else { None })
        .collect();
    names.into_iter().collect()
}

impl Nftables {
    /// Masquerades what these containers send to outside of their subnet. One transaction; repeating it changes nothing.
    ///
    /// An address that is masqueraded for another owner is taken from it: address management has just given it to this one,
    /// so that one is gone, and nobody has said so. Not so if the other one is of another network, whose addresses may be
    /// the same, and `is_alive` says yes to its key: then the address stays its, and this owner does without.
    ///
    /// # Errors
    /// If the kernel refuses, or a family is mixed up.
    pub fn add_masquerade(
        &self,
        intents: &[Masquerade],
        is_alive: &dyn Fn(&str) -> bool,
    ) -> Result<FormerHolders, NftError> {
        let Some(first) = intents.first() else { return Ok(FormerHolders::default()) };
        let mut plan = plan(intents)?;
        let held = match apply::apply(&self.socket, &plan) {
            Err(Failure::Held(held)) => held,
            outcome => return Ok(outcome.map(|_| FormerHolders::default())?),
        };
        let network = Owner::network_key(&first.owner.network);
        let key = |comment: &str| comment.split(',').next().unwrap_or_default().to_owned();
        let stays = |held: &Held| !held.comment.starts_with(&network) && is_alive(&key(&held.comment));
        let (alive, gone): (Vec<Held>, Vec<Held>) = held.into_iter().partition(stays);
        let is_of = |holders: &[Held], comment: &str| holders.iter().any(|held| same_owner(&held.comment, comment));
        let keys: Vec<_> = plan.elements.iter().map(|element| (element.set, element.key.clone())).collect();
        let removed = remove::remove_keys(&self.socket, &keys, &|comment| is_of(&gone, comment))?;
        let found = element::look_up(&self.socket, keys.iter().map(|(set, key)| (*set, key.as_slice())))?;
        let mut found = found.into_iter();
        plan.elements.retain(|_| !found.next().flatten().is_some_and(|found| is_of(&alive, &found.comment)));
        if !plan.elements.is_empty() {
            apply::apply(&self.socket, &plan)?;
        }
        chains::delete_unused(&self.socket, TABLE, &targets(&removed, TABLE), SUBNET_RULES)?;
        let told = |held: Vec<Held>| held.iter().map(|held| holder(&held.comment)).collect();
        Ok(FormerHolders { gone: told(gone), alive: told(alive) })
    }

    /// Compares what [`Nftables::add_masquerade`] makes with what is there: the containers' elements, the chains of their
    /// subnets, and the shared chains with all their rules. What the Go plugins made for all of them is as good.
    ///
    /// # Errors
    /// Only if the kernel cannot be asked.
    pub fn check_masquerade(&self, intents: &[Masquerade]) -> Result<Vec<Difference>, NftError> {
        if intents.is_empty() {
            return Ok(Vec::new());
        }
        let differences = check::check(&self.socket, &plan(intents)?)?;
        if !differences.is_empty() && legacy::masquerades(&self.socket, intents)? {
            return Ok(Vec::new());
        }
        Ok(differences)
    }

    /// Removes the owner's masquerading, also what the Go plugins made for it (`inet cni_plugins_masquerade`).
    /// Idempotent.
    ///
    /// This takes constant time if `hints`, the addresses that it is thought to have, are all it has, or if it has
    /// nothing; else all elements are read. Nobody else's are ever touched.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_masquerade(&self, owner: &Owner, hints: &[IpAddr]) -> Result<(), NftError> {
        let hints: Vec<_> = hints.iter().map(|address| (hosts(Ip::of(*address)), expr::octets(*address))).collect();
        let removed = remove::remove_owner(&self.socket, &[TABLE], &SETS, &hints, owner)?;
        chains::delete_unused(&self.socket, TABLE, &targets(&removed, TABLE), SUBNET_RULES)?;
        legacy::remove_masquerade(&self.socket, |comment| owner.wrote(comment))
    }

    /// Removes the masquerading of all owners of `network` that are not in `valid`, also what the Go plugins made, and
    /// subnets that no container is in. Idempotent.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn retain_masquerade(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), NftError> {
        let is_stale = valid_keys(network, valid);
        let index = SetId { table: TABLE, name: index::OWNERS };
        remove::remove_walking(&self.socket, &[HOSTS4, HOSTS6, index], &is_stale)?;
        let subnets = chains::chains_with(&self.socket, TABLE, SUBNET)?;
        chains::delete_unused(&self.socket, TABLE, &subnets, SUBNET_RULES)?;
        legacy::remove_masquerade(&self.socket, is_stale)
    }
}
