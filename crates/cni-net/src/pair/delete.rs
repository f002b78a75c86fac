//! Deleting pairs: the one of an owner, and those of owners that the runtime no longer knows.

use std::collections::HashSet;

use cni_plugin::{CniResult, Detachment, IfName, NetworkName, Owner};

use super::{ALTNAME_PREFIX, PairError, altname, check_mac, find, has_owner, is_veth};
use crate::{NetNs, Netlink};

/// Deletes the pair: the host's end, found by its owner; else, for a pair that the Go plugin made and that has no owner,
/// the container's end, found by its name, or the host's end that `told`, the result of ADD, describes. Idempotent; a
/// namespace that is gone is fine.
///
/// A veth of that name whose host end says that it is another owner's stays, and so does one whose host end is not among
/// the result's interfaces: the namespace is another container's by now.
pub fn delete(detachment: &Detachment, told: Option<&CniResult>) -> Result<(), PairError> {
    let socket = Netlink::open()?;
    if let Some(link) = find(&socket, &detachment.owner)? {
        socket.delete_link(link.index)?;
        return Ok(());
    }
    match NetNs::open_if_there(detachment.netns.as_deref())? {
        Some(namespace) => delete_unowned(&socket, &namespace, &detachment.owner.ifname, told),
        None => delete_described(&socket, told),
    }
}

/// Of a namespace that nobody can name any more, but that may live on. Only the very link is meant: a name is soon used
/// again, a hardware address is not.
fn delete_described(socket: &Netlink, told: Option<&CniResult>) -> Result<(), PairError> {
    let ends = told.into_iter().flat_map(|told| &told.interfaces);
    for end in ends.filter(|end| end.sandbox.is_empty() && !end.mac.is_empty()) {
        let Some(link) = socket.link_by_name(&end.name)?.filter(is_veth) else { continue };
        // A gateway's interface is a veth too, with both ends on the node.
        let elsewhere = link.peer_netnsid.is_some();
        if elsewhere && check_mac(&link, Some(end)).is_none() && !has_owner(&link) {
            socket.delete_link(link.index)?;
        }
    }
    Ok(())
}

fn delete_unowned(
    socket: &Netlink,
    namespace: &NetNs,
    ifname: &IfName,
    told: Option<&CniResult>,
) -> Result<(), PairError> {
    let inside = Netlink::open_in(namespace)?;
    let Some(link) = inside.link_by_name(ifname.as_str())?.filter(is_veth) else { return Ok(()) };
    let other_end = link.peer_index.map(|index| socket.link_by_index(index)).transpose()?.flatten();
    let host_end = other_end.filter(|end| is_veth(end) && end.peer_index == Some(link.index));
    let of_others = host_end.is_some_and(|end| {
        let told = told.map(|result| &result.interfaces).filter(|interfaces| !interfaces.is_empty());
        let untold = told.is_some_and(|told| told.iter().all(|interface| interface.name != end.name));
        untold || has_owner(&end)
    });
    if !of_others {
        inside.delete_link(link.index)?;
    }
    Ok(())
}

/// Deletes the pairs of owners of `network` that are not in `valid`; past a failure, reporting the first. Pairs without
/// an owner stay: they may be anybody's. Walks all links.
pub fn retain(network: &NetworkName, valid: &[Owner]) -> Result<(), PairError> {
    let of_network = format!("{ALTNAME_PREFIX}{}", Owner::network_key(network));
    let keep: HashSet<String> = valid.iter().map(altname).collect();
    let is_stale = |name: &String| name.starts_with(&of_network) && !keep.contains(name);
    let socket = Netlink::open()?;
    let mut failure = None;
    for link in socket.links()?.iter().filter(|link| link.altnames.iter().any(is_stale)) {
        if let Err(error) = socket.delete_link(link.index) {
            failure.get_or_insert(error);
        }
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}
