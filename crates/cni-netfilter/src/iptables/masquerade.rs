//! Masquerading: a chain per attachment that lets traffic to its own subnets and to multicast pass and masquerades the
//! rest, entered from `POSTROUTING` by the container's addresses.

use std::collections::HashSet;

use cni_plugin::{Difference, Family, Owner};
use ipnetwork::IpNetwork;

use super::owned::{self, ChainKind, OwnedChain, Skeleton};
use super::tool::{IptablesError, Reading, Rule, Table, Tools, comment, host, network};
use crate::intent::Masquerade;

/// `CNI-` and 24 digits: whether to masquerade what the container sends.
pub(super) const CHAINS: ChainKind =
    ChainKind { table: "nat", prefix: "CNI-", digits: 24, outdated_prefix: None, go_is_of_container: false };

/// Adds what `family` lacks of the intents' masquerading.
pub(super) fn add(family: Family, intents: &[Masquerade]) -> Result<(), IptablesError> {
    owned::add(&CHAINS, family, &wanted(intents, family))
}

/// What `family` lacks of the intents' masquerading.
pub(super) fn check(family: Family, intents: &[Masquerade]) -> Result<Vec<Difference>, IptablesError> {
    let tools = Tools::of(family);
    owned::check(tools, &Reading::of(tools, CHAINS.table)?.table, wanted(intents, family))
}

/// The table that [`add`] makes of an empty one.
pub(super) fn plan(intents: &[Masquerade], family: Family) -> Table {
    owned::plan(&CHAINS, &wanted(intents, family))
}

/// The rules for `intents`, as far as they are of `family`: one item per owner.
pub(super) fn wanted(intents: &[Masquerade], family: Family) -> Vec<OwnedChain> {
    let ours: Vec<&Masquerade> = intents.iter().filter(|intent| Family::of(intent.address) == family).collect();
    let mut owners: Vec<&Owner> = Vec::new();
    for intent in &ours {
        if !owners.contains(&&intent.owner) {
            owners.push(&intent.owner);
        }
    }
    owners.into_iter().map(|owner| of_owner(owner, &ours)).collect()
}

/// With several addresses all their subnets come first: the container is on the link in each of them. (Go puts the
/// second subnet behind the first address's masquerade, where it is never reached.)
fn of_owner(owner: &Owner, intents: &[&Masquerade]) -> OwnedChain {
    let intents = || intents.iter().filter(|intent| intent.owner == *owner);
    let text = comment(&format!("name: \"{}\" id: \"{}\"", owner.network, owner.container_id));
    let rule = |chain: &str, matches: &[&str], target: &[&str]| Rule::commented(chain, matches, &text, target);

    let mut subnets = HashSet::new();
    let once = intents().map(|intent| network(intent.subnet)).filter(|subnet| subnets.insert(subnet.clone()));
    let mut body: Vec<Rule> = once.map(|subnet| rule("", &["-d", &subnet], &["-j", "ACCEPT"])).collect();
    let multicast = if intents().any(|intent| intent.address.is_ipv4()) { "224.0.0.0/4" } else { "ff00::/8" };
    body.push(match intents().find_map(|intent| intent.to).map(|to| to.to_string()) {
        None => rule("", &["!", "-d", multicast], &["-j", "MASQUERADE"]),
        Some(to) => rule("", &["!", "-d", multicast], &["-j", "SNAT", "--to-source", &to]),
    });

    let mut addresses = HashSet::new();
    let once = intents().map(|intent| intent.address).filter(|address| addresses.insert(*address));
    let entries = once.map(|address| rule("POSTROUTING", &["-s", &host(address)], &[])).collect();
    let (owner, skeleton) = (owner.clone(), Skeleton::default());
    OwnedChain { kind: &CHAINS, owner, link: None, skeleton, body, entries, free_form: false }
}

/// What DEL expects to find for an owner that has these addresses.
pub(super) fn hinted(owner: &Owner, addresses: &[IpNetwork], family: Family) -> Vec<OwnedChain> {
    let intent =
        |address: &IpNetwork| Masquerade { owner: owner.clone(), address: address.ip(), subnet: *address, to: None };
    wanted(&addresses.iter().map(intent).collect::<Vec<_>>(), family)
}
