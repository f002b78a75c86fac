//! Deleting pairs: the one of an owner, and those of owners that the runtime no longer knows.

use cni_net::{NetNs, Netlink};
use cni_plugin::{CniResult, Detachment, IfName, NetworkName, Owner};

use super::{PairError, find, is_veth};
use crate::check::check_mac;
use crate::mark;

/// Deletes the pair: the host's end, found by its owner; else, for a pair that the Go plugin made and that has no owner,
/// the container's end, found by its name, or the host's end that `prev_result`, the result of ADD, describes. Idempotent; a
/// namespace that is gone is fine.
///
/// A veth of that name whose host end has another owner's mark stays, and so does one whose host end is not among
/// the result's interfaces: the namespace is another container's by now.
///
/// # Errors
/// [`PairError::Net`] and [`PairError::NetNs`].
pub fn delete(detachment: &Detachment, prev_result: Option<&CniResult>) -> Result<(), PairError> {
    let socket = Netlink::open()?;
    if let Some(link) = find(&socket, &detachment.owner)? {
        socket.delete_link(link.index)?;
        return Ok(());
    }
    match NetNs::open_if_there(detachment.netns.as_deref())? {
        Some(namespace) => delete_unowned(&socket, &namespace, &detachment.owner.ifname, prev_result),
        None => delete_described(&socket, prev_result),
    }
}

/// The namespace's path is gone, but the namespace may live on. A link that has the reported name and another hardware
/// address is another link: names are used again soon.
fn delete_described(socket: &Netlink, prev_result: Option<&CniResult>) -> Result<(), PairError> {
    let ends = prev_result.into_iter().flat_map(|result| &result.interfaces);
    for end in ends.filter(|end| end.sandbox.is_empty() && !end.mac.is_empty()) {
        let Some(link) = socket.link_by_name(&end.name)?.filter(is_veth) else { continue };
        // A gateway's interface is a veth too, with both ends on the node.
        let leads_away = link.peer_netnsid.is_some();
        if leads_away && check_mac(&link, Some(end)).is_none() && !mark::is_on(&link) {
            socket.delete_link(link.index)?;
        }
    }
    Ok(())
}

fn delete_unowned(
    socket: &Netlink,
    namespace: &NetNs,
    ifname: &IfName,
    prev_result: Option<&CniResult>,
) -> Result<(), PairError> {
    let inside = Netlink::open_in(namespace)?;
    let Some(link) = inside.link_by_name(ifname.as_str())?.filter(is_veth) else { return Ok(()) };
    let other_end = link.peer_index.map(|index| socket.link_by_index(index)).transpose()?.flatten();
    let host_end = other_end.filter(|end| is_veth(end) && end.peer_index == Some(link.index));
    let of_others = host_end.is_some_and(|end| {
        let reported = prev_result.map(|result| &result.interfaces).filter(|interfaces| !interfaces.is_empty());
        let is_unreported = reported.is_some_and(|reported| reported.iter().all(|found| found.name != end.name));
        is_unreported || mark::is_on(&end)
    });
    if !of_others {
        inside.delete_link(link.index)?;
    }
    Ok(())
}

/// Deletes the pairs of owners of `network` that are not in `valid`: see [`mark::retain`].
///
/// # Errors
/// [`PairError::Net`].
pub fn retain(network: &NetworkName, valid: &[Owner]) -> Result<(), PairError> {
    Ok(mark::retain(&Netlink::open()?, network, valid, |_| true)?)
}
