//! The owner's mark on a link: an alternative name, by which the kernel finds it in constant time, and an alias for people.

use std::collections::HashSet;

use cni_net::{Link, LinkChange, NetError, NetNs, Netlink};
use cni_plugin::{IfName, NetworkName, Owner};

use crate::print::Place;

/// What the alternative names of all attachments begin with.
const PREFIX: &str = "cni-";
/// What the alternative name begins with that says which node a link in a container belongs to: the inode of the node's network
/// namespace follows, and the owner, for a name can be on one link of a namespace only. Several nodes, each with its own
/// namespace, may see each other's processes and mounts.
const NODE_PREFIX: &str = "cni-node-";
/// The longest text that a link carries: `IFALIASZ` of `include/uapi/linux/if.h`, less the zero that comes with it and one
/// more (`dev_set_alias` in net/core/dev.c).
const ALIAS_MAX: usize = 254;
/// How long [`Owner::key`] is.
const KEY_LENGTH: usize = 33;

/// Writes the owner on the link with this index. Not idempotent.
///
/// # Errors
/// As [`Netlink::add_altname`] and [`Netlink::change_link`].
pub fn write(netlink: &Netlink, index: u32, owner: &Owner) -> Result<(), NetError> {
    netlink.add_altname(index, &altname(&owner.key()))?;
    write_alias(netlink, index, owner)
}

fn write_alias(netlink: &Netlink, index: u32, owner: &Owner) -> Result<(), NetError> {
    netlink.change_link(index, &LinkChange { alias: alias(owner), ..LinkChange::default() })
}

/// Writes the owner, and the calling thread's namespace as the node's, on a link in a container. Not idempotent.
///
/// # Errors
/// As [`write()`], and where `/proc` is not mounted.
pub fn write_in_container(netlink: &Netlink, index: u32, owner: &Owner) -> Result<(), NetError> {
    let node = format!("{}{}", node_prefix(&NetNs::current()?), owner.key());
    // At once: with one of them only, neither the next DEL nor GC would know it as this node's and this owner's.
    netlink.add_altnames(index, &[&altname(&owner.key()), &node])?;
    write_alias(netlink, index, owner)
}

/// True if the link, which is in a container, belongs to this node.
pub fn is_of_node(link: &Link, node: &NetNs) -> bool {
    let prefix = node_prefix(node);
    link.altnames.iter().any(|name| name.starts_with(&prefix))
}

fn node_prefix(node: &NetNs) -> String {
    format!("{NODE_PREFIX}{}-", node.inode())
}

/// What [`write_in_container`] does, as commands.
pub fn commands_in_container(link: &IfName, owner: &Owner) -> Vec<String> {
    let [owners, alias] = commands(Place::Container, link, owner);
    vec![format!("{owners} altname {NODE_PREFIX}NODE-{}", owner.key()), alias]
}

/// What [`write()`] does, as commands.
pub fn commands(place: Place, link: &IfName, owner: &Owner) -> [String; 2] {
    let alias = alias(owner).unwrap_or_default();
    [
        place.ip(&format!("link property add dev {link} altname {}", altname(&owner.key()))),
        place.ip(&format!("link set {link} alias {alias:?}")),
    ]
}

/// The link with the mark of the owner with this key ([`Owner::key`]). Constant time.
///
/// # Errors
/// The kernel's.
pub fn find(netlink: &Netlink, owner_key: &str) -> Result<Option<Link>, NetError> {
    netlink.link_by_altname(&altname(owner_key))
}

/// True if the link has an owner's mark.
pub fn is_on(link: &Link) -> bool {
    link.altnames.iter().any(|name| name.starts_with(PREFIX))
}

/// True if the link has this owner's mark.
pub fn is_of(link: &Link, owner: &Owner) -> bool {
    link.altnames.contains(&altname(&owner.key()))
}

/// The key of the owner in `network` whose mark is on the link ([`Owner::key`]).
pub fn owner_key<'a>(link: &'a Link, network: &NetworkName) -> Option<&'a str> {
    let of_network = Owner::network_key(network);
    link.altnames.iter().find_map(|name| name.strip_prefix(PREFIX).filter(|key| key.starts_with(&of_network)))
}

/// What marks of attachments are on a link, its own and those of others that use it: the text between `cni-` and the key of the
/// owner (`ifb-`, `user-`, …; empty on the attachment's own link), the key, and the owner where the link's alias names it.
pub fn read(link: &Link) -> Vec<(String, String, Option<Owner>)> {
    let named = link.alias.as_deref().and_then(read_alias);
    let of_altname = |name: &String| {
        let rest = name.strip_prefix(PREFIX)?;
        let at = rest.len().checked_sub(KEY_LENGTH).filter(|at| rest.is_char_boundary(*at))?;
        let (kind, key) = rest.split_at(at);
        let is_key = key.bytes().enumerate().all(|(at, b)| if at == 16 { b == b'-' } else { b.is_ascii_hexdigit() });
        let owner = named.clone().filter(|owner| owner.key() == key);
        (is_key && !name.starts_with(NODE_PREFIX)).then(|| (kind.to_owned(), key.to_owned(), owner))
    };
    link.altnames.iter().filter_map(of_altname).collect()
}

fn read_alias(alias: &str) -> Option<Owner> {
    let mut words = alias.strip_prefix("cni ")?.split(' ');
    let (network, container_id, ifname) = (words.next()?, words.next()?, words.next()?);
    Some(Owner {
        network: network.parse().ok()?,
        container_id: container_id.parse().ok()?,
        ifname: ifname.parse().ok()?,
    })
}

/// The keys ([`Owner::key`]) of the owners of `network` whose mark is on a link of this namespace. Lists all links.
///
/// # Errors
/// As [`Netlink::links`].
pub fn owner_keys(netlink: &Netlink, network: &NetworkName) -> Result<Vec<String>, NetError> {
    let links = netlink.links()?;
    Ok(links.iter().filter_map(|link| owner_key(link, network)).map(str::to_owned).collect())
}

/// Deletes the links of this namespace that are marked with an owner of `network` that is not in `valid`, as far as they are
/// `meant`; past a failure, reporting the first. Links without a mark stay. Lists all links.
///
/// # Errors
/// As [`Netlink::links`] and [`Netlink::delete_link`].
pub fn retain(
    netlink: &Netlink,
    network: &NetworkName,
    valid: &[Owner],
    meant: impl Fn(&Link) -> bool,
) -> Result<(), NetError> {
    let of_network = altname(&Owner::network_key(network));
    let keep: HashSet<String> = valid.iter().map(|owner| altname(&owner.key())).collect();
    let is_stale = |name: &String| name.starts_with(&of_network) && !keep.contains(name);
    let mut failure = None;
    for link in netlink.links()?.iter().filter(|link| link.altnames.iter().any(is_stale) && meant(link)) {
        if let Err(error) = netlink.delete_link(link.index) {
            failure.get_or_insert(error);
        }
    }
    failure.map_or(Ok(()), Err)
}

fn altname(owner_key: &str) -> String {
    format!("{PREFIX}{owner_key}")
}

/// The owner in words, for `ip link`.
fn alias(owner: &Owner) -> Option<String> {
    let text = format!("cni {} {} {}", owner.network, owner.container_id, owner.ifname);
    text.get(..text.len().min(ALIAS_MAX)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_fits_on_the_link() {
        let owner = |id: &str| Owner {
            network: "net".parse().unwrap(),
            container_id: id.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let long = owner(&"f".repeat(300));
        // ALTIFNAMSIZ is 128 with its end.
        assert!(altname(&long.key()).len() < 128);
        assert_eq!(alias(&long).unwrap().len(), 254);
        assert_eq!(alias(&owner("c1")).unwrap(), "cni net c1 eth0");
        assert_eq!(read_alias("cni net c1 eth0"), Some(owner("c1")));
        assert_eq!(altname(&owner("c1").key()).len(), PREFIX.len() + KEY_LENGTH);
    }
}
