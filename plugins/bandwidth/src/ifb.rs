//! The ifb of an attachment, through whose queue what the container sends is led; with the owner written on it.

use std::collections::HashSet;

use cni_net::{Ifb, Link, LinkChange, LinkSpec, NetError, Netlink};
use cni_plugin::{CniError, CniResult, IfName, MacAddr, NetworkName, Owner, Undo, sha512_hex};

/// What the alternative names of all ifbs begin with; behind it is the owner's key.
const ALTNAME_PREFIX: &str = "cni-ifb-";
/// What the names begin with, the Go plugin's too.
const NAME_PREFIX: &str = "bwp";
/// How many interfaces of a container on one network may have an ifb.
const NAMES: usize = 10;
/// `IFALIASZ` of `include/uapi/linux/if.h`, less the zero that comes with it and one more.
const ALIAS_MAX: usize = 254;

/// The names that the ifb may have. The first is the Go plugin's, which knows the container only; the others are for the
/// container's further interfaces on the network.
fn names(owner: &Owner) -> impl Iterator<Item = IfName> + '_ {
    let (network, id) = (owner.network.as_str(), owner.container_id.as_str());
    let parts = move |salt: usize| match salt {
        0 => sha512_hex(&[network, id], 12),
        _ => sha512_hex(&[network, id, ":", owner.ifname.as_str(), ":", &salt.to_string()], 12),
    };
    (0..NAMES).filter_map(move |salt| format!("{NAME_PREFIX}{}", parts(salt)).parse().ok())
}

fn altname(owner: &Owner) -> String {
    format!("{ALTNAME_PREFIX}{}", owner.key())
}

/// The hardware address says the network and the owner from birth on, before the owner can be written on the link: GC knows
/// by it what an ADD has left that was killed in between.
fn mac(owner: &Owner) -> MacAddr {
    let [a, b, c] = network_bytes(&owner.network);
    let own = u16::from_str_radix(&sha512_hex(&[&owner.key()], 4), 16).unwrap_or_default().to_be_bytes();
    // Locally administered, for one link (IEEE 802).
    MacAddr([2, a, b, c, own[0], own[1]])
}

fn network_bytes(network: &NetworkName) -> [u8; 3] {
    let hash = u32::from_str_radix(&sha512_hex(&[network.as_str()], 6), 16).unwrap_or_default().to_be_bytes();
    [hash[1], hash[2], hash[3]]
}

/// Creates the owner's ifb, up, with its name on it, and pushes its deletion to `undo`.
pub fn create(host: &Netlink, owner: &Owner, mtu: u32, undo: &mut Undo) -> Result<Link, CniError> {
    // First of all, for the answer may get lost. On sockets of their own: this one may be what has failed.
    let unfinished = owner.clone();
    undo.push("an unfinished ifb", move || delete_unfinished(&Netlink::open()?, &unfinished));
    let ifb = create_with_free_name(host, owner, mtu)?;
    let index = ifb.index;
    undo.push(format!("link {}", ifb.name), move || Netlink::open()?.delete_link(index).map(drop));
    host.add_altname(index, &altname(owner))?;
    let words = format!("cni {} {} {}", owner.network, owner.container_id, owner.ifname);
    let alias = words.get(..words.len().min(ALIAS_MAX)).map(str::to_owned);
    // No queue but the limit's, as the Go plugin has it.
    host.change_link(index, &LinkChange { up: Some(true), alias, txqlen: Some(0), ..LinkChange::default() })?;
    Ok(ifb)
}

/// Deletes an ifb that the owner's ADD made and could not put a name on.
fn delete_unfinished(host: &Netlink, owner: &Owner) -> Result<(), NetError> {
    for name in names(owner) {
        let Some(link) = host.link_by_name(name.as_str())? else { return Ok(()) };
        if is_unowned(&link) && link.mac == Some(mac(owner)) {
            host.delete_link(link.index)?;
        }
    }
    Ok(())
}

fn create_with_free_name(host: &Netlink, owner: &Owner, mtu: u32) -> Result<Link, CniError> {
    for name in names(owner) {
        let spec = LinkSpec { mtu: Some(mtu), mac: Some(mac(owner)), ..LinkSpec::new(name, &Ifb) };
        match host.create_link(&spec) {
            Err(NetError::Exists { .. }) => {}
            other => return Ok(other?),
        }
    }
    Err(CniError::plugin(format!("every name for the ifb of {owner} is the name of another link: delete unused links")))
}

/// The evidence for the owner of an ifb that has no owner's mark.
#[derive(Debug, Default)]
pub struct Traces<'a> {
    /// The indexes of the links that the node's end of the pair redirects to.
    pub redirects: Vec<u32>,
    /// The result of ADD.
    pub result: Option<&'a CniResult>,
}

impl Traces<'_> {
    /// Of an attachment that has left no traces at all, the one ifb with the container's name may be.
    fn lead_to(&self, link: &Link) -> bool {
        let is_silent = self.redirects.is_empty() && self.result.is_none_or(|result| result.interfaces.is_empty());
        let is_in_result = || self.result.is_some_and(|result| result.host_interface(&link.name).is_some());
        is_silent || self.redirects.contains(&link.index) || is_in_result()
    }
}

/// The owner's ifb: by the alternative name; else one without any, by its name. Such a one is the Go plugin's, or its maker was
/// killed; the traces say whether it is this interface's, and not another one's of the container.
pub fn find(host: &Netlink, owner: &Owner, traces: &Traces<'_>) -> Result<Option<Link>, NetError> {
    if let Some(link) = host.link_by_altname(&altname(owner))? {
        return Ok(Some(link));
    }
    for name in names(owner) {
        let Some(link) = host.link_by_name(name.as_str())? else { return Ok(None) };
        if is_unowned(&link) && (link.mac == Some(mac(owner)) || traces.lead_to(&link)) {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// Deletes the ifbs of owners of `network` that are not in `valid`; past a failure, reporting the first. The Go plugin's stay:
/// they don't say whose they are. Walks all links.
pub fn retain(host: &Netlink, network: &NetworkName, valid: &[Owner]) -> Result<(), NetError> {
    let of_network = format!("{ALTNAME_PREFIX}{}", Owner::network_key(network));
    let keep: HashSet<String> = valid.iter().map(altname).collect();
    let names: HashSet<String> = valid.iter().flat_map(|owner| names(owner).map(|name| name.to_string())).collect();
    let [a, b, c] = network_bytes(network);
    let is_unfinished = |link: &Link| {
        let of_this_network = link.mac.is_some_and(|mac| mac.0[..4] == [2, a, b, c]);
        is_unowned(link) && of_this_network && !names.contains(&link.name)
    };
    let is_stale = |link: &&Link| {
        let marked = link.altnames.iter().any(|name| name.starts_with(&of_network) && !keep.contains(name));
        marked || is_unfinished(link)
    };
    let mut failure = None;
    for link in host.links()?.iter().filter(is_stale) {
        failure = failure.or(host.delete_link(link.index).err());
    }
    failure.map_or(Ok(()), Err)
}

/// Says whether an ifb could be created; creates none.
pub fn probe(host: &Netlink) -> Result<(), NetError> {
    NAME_PREFIX.parse().map_or(Ok(()), |name| host.probe_ifb(&name))
}

fn is_unowned(link: &Link) -> bool {
    let is_named = link.kind.as_deref() == Some("ifb") && link.name.starts_with(NAME_PREFIX);
    is_named && !link.altnames.iter().any(|name| name.starts_with(ALTNAME_PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(id: &str, ifname: &str) -> Owner {
        Owner {
            network: "testnet".parse().unwrap(),
            container_id: id.parse().unwrap(),
            ifname: ifname.parse().unwrap(),
        }
    }

    #[test]
    fn the_first_name_is_the_go_plugins() {
        // As containernetworking-plugins 1.1.1 names it.
        assert_eq!(names(&owner("c1", "eth0")).next().unwrap().as_str(), "bwp328e3d85e6c0");
        let (first, second) = (owner("c1", "eth0"), owner("c1", "eth1"));
        let all: HashSet<IfName> = names(&first).chain(names(&second)).collect();
        assert_eq!(all.len(), 2 * NAMES - 1, "of the two interfaces only the first name is the same");
    }

    #[test]
    fn the_owner_fits_on_the_link() {
        let owner = owner(&"f".repeat(300), "eth0");
        assert!(altname(&owner).len() < 128);
        assert_eq!(mac(&owner).0[..4], [2, 0xc5, 0x96, 0x4c], "printf testnet | sha512sum");
    }
}
