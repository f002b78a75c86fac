//! Masquerading: a chain per attachment that lets traffic to its own subnets and to multicast pass and masquerades the
//! rest, entered from `POSTROUTING` by the container's addresses.

use std::collections::HashSet;
use std::net::IpAddr;

use cni_plugin::Owner;
use ipnetwork::IpNetwork;

use super::names::Kind;
use super::plan::{Frame, Wanted};
use super::rules::comment;
use super::tool::Family;
use crate::Masquerade;

/// The rules for `intents`, as far as they are of `family`: one item per owner.
pub(super) fn wanted(intents: &[Masquerade], family: Family) -> Vec<Wanted> {
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
fn of_owner(owner: &Owner, intents: &[&Masquerade]) -> Wanted {
    let intents: Vec<&&Masquerade> = intents.iter().filter(|intent| intent.owner == *owner).collect();
    let text = comment(&format!("name: \"{}\" id: \"{}\"", owner.network, owner.container_id));
    let commented = ["-m", "comment", "--comment", &text];
    let rule =
        |head: &[&str], tail: &[&str]| [head, &commented, tail].concat().into_iter().map(str::to_owned).collect();

    let mut subnets = HashSet::new();
    let once = intents.iter().map(|intent| network(intent.subnet)).filter(|subnet| subnets.insert(subnet.clone()));
    let mut body: Vec<Vec<String>> = once.map(|subnet| rule(&["-d", &subnet], &["-j", "ACCEPT"])).collect();
    let multicast = if intents.iter().any(|intent| intent.address.is_ipv4()) { "224.0.0.0/4" } else { "ff00::/8" };
    body.push(rule(&["!", "-d", multicast], &["-j", "MASQUERADE"]));

    let mut addresses = HashSet::new();
    let once = intents.iter().map(|intent| intent.address).filter(|address| addresses.insert(*address));
    let entries = once.map(|address| ("POSTROUTING", rule(&["-s", &host(address)], &[]))).collect();
    let (owner, frame) = (owner.clone(), Frame::default());
    Wanted { kind: Kind::Masquerade, owner, link: None, frame, body, entries, free_form: false }
}

/// What DEL expects to find for an owner that has these addresses.
pub(super) fn hinted(owner: &Owner, addresses: &[IpNetwork], family: Family) -> Vec<Wanted> {
    let intent = |address: &IpNetwork| Masquerade { owner: owner.clone(), address: address.ip(), subnet: *address };
    wanted(&addresses.iter().map(intent).collect::<Vec<_>>(), family)
}

fn host(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

/// `net` as iptables prints it, without host bits.
pub(super) fn network(net: IpNetwork) -> String {
    format!("{}/{}", net.network(), net.prefix())
}
