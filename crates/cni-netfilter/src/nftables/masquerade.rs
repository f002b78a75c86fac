//! Masquerading: `inet cni_masquerade`. One lookup of the source address leads to a chain for the container's subnet,
//! so a packet costs the same with any number of containers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni_plugin::{Difference, Family, NetworkName, Owner};
use ipnetwork::IpNetwork;
use netlink_packet_netfilter::nftables::InetHookNumber;

use super::owned::comment::{self, holder, is_stale, same_owner};
use super::owned::{Failure, Held, OwnedTable, Plan, apply, check, index, remove};
use super::ruleset::expression::{self as expr, Side};
use super::ruleset::{
    Chain, DataType, Element, Found, Key, Maps, Rule, Set, SetId, Skeleton, Value, chain, data, element,
};
use super::wire::{NftError, Table, TableFamily};
use super::{Nftables, go_rules};
use crate::intent::{Holder, Masquerade};

const TABLE: Table<'static> = Table { family: TableFamily::Inet, name: "cni_masquerade" };
const HOSTS4: &str = "hosts4";
const HOSTS6: &str = "hosts6";
pub(super) static OWNED: OwnedTable = OwnedTable { table: TABLE, sets: &[HOSTS4, HOSTS6], waitlist: None };
/// Followed by the subnet.
const SUBNET: &str = "subnet-";
/// Between the subnet and the address that packets leave with, if that is given.
const TO: &str = "-to-";
/// How many rules the chain of a subnet has.
const SUBNET_RULES: u32 = 2;

fn hosts(family: Family) -> &'static str {
    match family {
        Family::V4 => HOSTS4,
        Family::V6 => HOSTS6,
    }
}

fn key(address: IpAddr) -> Key {
    Key::new(SetId { table: TABLE, name: hosts(Family::of(address)) }, data::address(address))
}

/// `<ip> daddr <address>/<prefix> return`.
fn exempt(address: IpAddr, prefix: u8) -> Rule {
    let destination = expr::address_in(Side::Destination, address, prefix);
    expr::only(Family::of(address)).into_iter().chain(destination).chain([expr::return_()]).collect()
}

/// `<ip> saddr vmap @hosts…`.
fn look_up(family: Family) -> Rule {
    let load = [expr::address(family, Side::Source, 0), expr::verdict_of(hosts(family))];
    expr::only(family).into_iter().chain(load).collect()
}

/// The table with what all containers share.
pub(super) fn skeleton() -> Skeleton {
    let set = |name, key| Set { name, key, maps: Maps::ToVerdict, comment: "container : subnet" };
    let rules = vec![
        exempt(Ipv4Addr::new(224, 0, 0, 0).into(), 4),
        exempt(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
        look_up(Family::V4),
        look_up(Family::V6),
    ];
    Skeleton {
        table: TABLE,
        comment: "CNI plugins: masquerading",
        sets: vec![
            set(HOSTS4, &[DataType::Address(Family::V4)]),
            set(HOSTS6, &[DataType::Address(Family::V6)]),
            index::set(),
        ],
        chains: vec![Chain::base("postrouting", "nat", InetHookNumber::PostRouting, chain::SRCNAT, rules)],
        by_name: |name| match name.split_once(TO) {
            Some((subnet, to)) => {
                Some(of_subnet(chain::subnet_of(SUBNET, subnet)?, Some(to.replace('_', ":").parse().ok()?)))
                    .filter(|chain| chain.name == name)
            }
            None => chain::subnet_of(SUBNET, name).map(|subnet| of_subnet(subnet, None)),
        },
    }
}

/// The chain for containers of `subnet`: traffic inside of it is left alone, the rest leaves with the node's address or `to`.
fn of_subnet(subnet: IpNetwork, to: Option<IpAddr>) -> Chain {
    let name = chain::subnet_name(SUBNET, subnet);
    let (name, translation) = match to {
        None => (name, vec![expr::masquerade()]),
        // The kernel translates packets of the address's family only (`nft_nat_inet_eval`).
        Some(to) => (format!("{name}{TO}{to}").replace(':', "_"), expr::snat(to).to_vec()),
    };
    Chain::regular(name, vec![exempt(subnet.network(), subnet.prefix()), translation])
}

fn plan(intents: &[Masquerade]) -> Result<Plan, NftError> {
    let mut plan = Plan::new(skeleton(), Vec::new());
    let mut subnets = BTreeSet::new();
    for intent in intents {
        if intent.address.is_ipv4() != intent.subnet.is_ipv4() {
            return Err(NftError::Family { thing: intent.address.to_string(), to: intent.subnet.to_string() });
        }
        if let Some(to) = intent.to.filter(|to| to.is_ipv4() != intent.address.is_ipv4()) {
            return Err(NftError::Family { thing: intent.address.to_string(), to: to.to_string() });
        }
        let chain = of_subnet(intent.subnet, intent.to);
        plan.elements.push(Element {
            key: key(intent.address),
            value: Value::Goto(chain.name.clone()),
            comment: intent.owner.comment(),
            name: format!("masquerading of {}", intent.address),
        });
        plan.register(&OWNED, &intent.owner, None);
        if subnets.insert(chain.name.clone()) {
            plan.shared_chains.push((TABLE, chain));
        }
    }
    plan.deduplicate()?;
    Ok(plan)
}

impl Nftables {
    /// Masquerades what these containers send to outside of their subnet. One transaction; repeating it changes nothing.
    ///
    /// An address that is masqueraded for another owner is taken from it, unless that one keeps it
    /// (a container of another network that is alive): then this owner is not masqueraded. Returns those holders.
    ///
    /// # Errors
    /// If the kernel refuses, or an address isn't of its subnet's family.
    pub fn add_masquerade(&self, intents: &[Masquerade]) -> Result<Vec<String>, NftError> {
        let Some(first) = intents.first() else { return Ok(Vec::new()) };
        let mut plan = plan(intents)?;
        let before: Vec<Found> = element::look_up(&self.socket, &plan.keys())?.into_iter().flatten().collect();
        let held = match apply::apply(&self.socket, &plan) {
            Err(Failure::Held(held)) => held,
            Err(error) => return Err(error.into()),
            Ok(_) => return self.leave_chains(&plan, &before).map(|()| Vec::new()),
        };
        let stays = |held: &Held| {
            let holder = Holder { key: comment::key(&held.comment), link: None };
            !holder.yields_address(&first.owner, self.holder_is_there)
        };
        let (alive, gone): (Vec<Held>, Vec<Held>) = held.into_iter().partition(stays);
        let is_of = |holders: &[Held], comment: &str| holders.iter().any(|held| same_owner(&held.comment, comment));
        let keys = plan.keys();
        let removed = remove::keys(&self.socket, &[&OWNED], &keys, &|comment| is_of(&gone, comment))?;
        let mut found = element::look_up(&self.socket, &keys)?.into_iter();
        plan.elements.retain(|_| !found.next().flatten().is_some_and(|found| is_of(&alive, &found.comment)));
        if !plan.elements.is_empty() {
            apply::apply(&self.socket, &plan)?;
        }
        chain::delete_unused(&self.socket, TABLE, &remove::targets(&removed, TABLE), SUBNET_RULES)?;
        Ok(alive.iter().map(|held| holder(&held.comment)).collect())
    }

    /// Deletes chains that the owner's addresses led to before, and no longer do, if no other address does.
    fn leave_chains(&self, plan: &Plan, before: &[Found]) -> Result<(), NftError> {
        let mut left = remove::targets(before, TABLE);
        left.retain(|chain| plan.shared_chains.iter().all(|(_, wanted)| wanted.name != *chain));
        if left.is_empty() { Ok(()) } else { chain::delete_unused(&self.socket, TABLE, &left, SUBNET_RULES) }
    }

    /// Compares what [`Nftables::add_masquerade`] makes with what is there: the containers' elements, the chains of their
    /// subnets, and the shared chains with all their rules. No difference if the Go plugins' rules masquerade all of them.
    ///
    /// # Errors
    /// Only if the kernel cannot be asked.
    pub fn check_masquerade(&self, intents: &[Masquerade]) -> Result<Vec<Difference>, NftError> {
        if intents.is_empty() {
            return Ok(Vec::new());
        }
        let differences = check::check(&self.socket, &plan(intents)?)?;
        if !differences.is_empty() && go_rules::masquerade::serves(&self.socket, intents)? {
            return Ok(Vec::new());
        }
        Ok(differences)
    }

    /// Removes the owner's masquerading, also what the Go plugins made for it (`inet cni_plugins_masquerade`).
    /// Idempotent.
    ///
    /// This takes constant time if `hints`, the addresses that it is thought to have, are all it has, or if it has
    /// nothing; else all elements are read. Other owners' are never touched.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_masquerade(&self, owner: &Owner, hints: &[IpAddr]) -> Result<(), NftError> {
        let hints: Vec<_> = hints.iter().copied().map(key).collect();
        let removed = remove::of_owner(&self.socket, &[&OWNED], &hints, owner)?;
        chain::delete_unused(&self.socket, TABLE, &remove::targets(&removed, TABLE), SUBNET_RULES)?;
        go_rules::masquerade::remove(&self.socket, |comment| owner.wrote(comment))
    }

    /// Removes the masquerading of all owners of `network` that are not in `valid`, also what the Go plugins made, and
    /// subnets that no container is in. Idempotent.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn retain_masquerade(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), NftError> {
        let is_stale = is_stale(network, valid);
        remove::matching(&self.socket, &[&OWNED], &is_stale)?;
        let subnets = chain::starting_with(&self.socket, TABLE, SUBNET)?;
        chain::delete_unused(&self.socket, TABLE, &subnets, SUBNET_RULES)?;
        go_rules::masquerade::remove(&self.socket, is_stale)
    }

    /// What [`Nftables::add_masquerade`] makes in an empty network namespace. Asks the kernel nothing.
    ///
    /// # Errors
    /// As that has them before it turns to the kernel.
    pub fn print_masquerade(intents: &[Masquerade]) -> Result<String, NftError> {
        Ok(plan(intents)?.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(network: &str) -> Owner {
        let (network, container_id) = (network.parse().unwrap(), "c1".parse().unwrap());
        Owner { network, container_id, ifname: "eth0".parse().unwrap() }
    }

    fn intent(address: &str, subnet: &str) -> Masquerade {
        Masquerade { owner: owner("n"), address: address.parse().unwrap(), subnet: subnet.parse().unwrap(), to: None }
    }

    fn printed(chain: &Chain) -> Vec<String> {
        chain.rules.iter().map(|rule| crate::nftables::ruleset::print::rule(TABLE.family, rule)).collect()
    }

    #[test]
    fn a_subnet_has_one_chain_however_many_containers_are_in_it() {
        let plan = plan(&[
            intent("10.1.0.2", "10.1.0.1/20"),
            intent("10.1.0.3", "10.1.0.9/20"),
            intent("fd00::2", "fd00::/64"),
        ]);
        let plan = plan.unwrap();
        let chains: Vec<_> =
            plan.shared_chains.iter().map(|(_, chain)| (chain.name.as_str(), printed(chain))).collect();
        let rules = |ip: &str| vec![format!("{ip} return"), "masquerade".to_owned()];
        assert_eq!(
            chains,
            [("subnet-10.1.0.0/20", rules("ip daddr 10.1.0.0/20")), ("subnet-fd00__/64", rules("ip6 daddr fd00::/64")),]
        );
        let targets: Vec<_> = plan.elements.iter().map(|element| (element.key.set.name, &element.value)).collect();
        let goto = |chain: &str| Value::Goto(chain.to_owned());
        let (v4, v6) = (goto("subnet-10.1.0.0/20"), goto("subnet-fd00__/64"));
        assert_eq!(targets, [(HOSTS4, &v4), (HOSTS4, &v4), (HOSTS6, &v6)]);
    }

    #[test]
    fn contradictions_are_refused_before_the_kernel_is_asked() {
        let refused = |intents: &[Masquerade]| plan(intents).unwrap_err().to_string();
        assert!(
            refused(&[intent("10.1.0.2", "fd00::/64")]).contains("10.1.0.2 and fd00::/64 are of different families")
        );
        let twice = [intent("10.1.0.2", "10.1.0.0/20"), intent("10.1.0.2", "10.1.0.0/24")];
        assert!(refused(&twice).contains("masquerading of 10.1.0.2 is requested twice"));
        assert_eq!(plan(&[twice[0].clone(), twice[0].clone()]).unwrap().elements.len(), 1);
    }

    #[test]
    fn a_name_says_what_is_in_the_chain_of_a_subnet() {
        let by_name = skeleton().by_name;
        assert_eq!(
            by_name("subnet-10.1.0.0/20").map(|chain| chain.rules),
            Some(of_subnet("10.1.0.0/20".parse().unwrap(), None).rules)
        );
        for to in ["192.0.2.7", "2001:db8::7"] {
            let chain = of_subnet("10.1.0.0/20".parse().unwrap(), to.parse().ok());
            assert_eq!(by_name(&chain.name).map(|chain| chain.rules), Some(chain.rules));
        }
        assert!(by_name("postrouting").is_none() && by_name("subnet-x").is_none());
    }
}
