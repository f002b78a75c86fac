//! The veth pair of an attachment: one end on the node, with the owner's mark, the other in the container.

mod create;
mod delete;

use cni_net::{Link, NetError, NetNsError, Netlink};
use cni_plugin::{CniResult, IfName, Owner, sha512_hex};

use crate::mark;

pub use create::{Pair, PairSpec, create};
pub use delete::{delete, retain};

/// How many names the host's end may have.
const NAMES: u32 = 10;

/// Why a pair could not be made, found or deleted.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The kernel refused.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The container's namespace can't be entered.
    #[error(transparent)]
    NetNs(#[from] NetNsError),
    /// There are no random numbers for its addresses.
    #[error("cannot choose a MAC address: {0}")]
    Random(#[from] std::io::Error),
    /// Every name of the host's end belongs to another link.
    #[error("every name for the host's end of {0} belongs to another link: delete the links that are not in use")]
    NoName(Box<Owner>),
    /// Each of the names that were asked for belongs to another link.
    #[error("{} belongs to another link ({holder})", names_tried(.names))]
    NamesTaken {
        /// The names, in the order in which they were tried.
        names: Vec<IfName>,
        /// The link that has the first one, in words.
        holder: String,
    },
}

fn names_tried(names: &[IfName]) -> String {
    match names {
        [name] => format!("the name {:?}", name.as_str()),
        _ => format!("each of the names {}", names.iter().map(IfName::as_str).collect::<Vec<_>>().join(", ")),
    }
}

/// The names that the host's end of a pair may have: the first is tried first, the others if another owner's link has
/// that name. Derived from the owner, so that a link is found again even if its ADD was killed before it could write
/// the owner on it.
pub fn host_names(owner: &Owner) -> impl Iterator<Item = IfName> {
    let key = owner.key();
    (0..NAMES).filter_map(move |salt| format!("veth{}", sha512_hex(&[&key, &salt.to_string()], 8)).parse().ok())
}

/// True if the owner with this key ([`Owner::key`]) has a pair whose other end is still there, or if that can't be
/// determined.
pub fn is_attached(socket: &Netlink, owner_key: &str) -> bool {
    let found = mark::find(socket, owner_key);
    found.map_or(true, |link| link.is_some_and(|link| link.peer_netnsid.is_none_or(|id| id >= 0)))
}

/// True if the container of an owner with this key, whose host end had the index `link` if that is known, is still there, or if
/// that can't be determined. The owner's mark decides: the index may have been given to another link after a restart of the node.
/// A veth of that index without any mark may be one that the Go plugin made.
///
/// Opens a socket in the network namespace of the calling thread.
pub fn is_there(owner_key: &str, link: Option<u32>) -> bool {
    let Ok(socket) = Netlink::open() else { return true };
    match mark::find(&socket, owner_key) {
        Ok(Some(found)) => return found.peer_netnsid.is_none_or(|id| id >= 0),
        Err(_) => return true,
        Ok(None) => {}
    }
    let Some(index) = link else { return false };
    let found = socket.link_by_index(index);
    found.map_or(true, |found| found.is_some_and(|found| is_veth(&found) && !mark::is_on(&found)))
}

/// The owner's host end: by the alternative name, or by the name derived from the owner, if its maker was killed before
/// it could write one. Constant time.
///
/// # Errors
/// The kernel's.
pub fn find(socket: &Netlink, owner: &Owner) -> Result<Option<Link>, NetError> {
    if let Some(link) = mark::find(socket, &owner.key())? {
        return Ok(Some(link));
    }
    let Some(name) = host_names(owner).next() else { return Ok(None) };
    let link = socket.link_by_name(name.as_str())?;
    Ok(link.filter(|link| is_veth(link) && link.altnames.is_empty()))
}

/// The owner's host end; else, for a pair that the Go plugin made and that has no owner, the veth that the result names.
///
/// # Errors
/// The kernel's.
pub fn find_or_reported(socket: &Netlink, owner: &Owner, result: &CniResult) -> Result<Option<Link>, NetError> {
    if let Some(link) = find(socket, owner)? {
        return Ok(Some(link));
    }
    for interface in result.interfaces.iter().filter(|interface| interface.sandbox.is_empty()) {
        if let Some(link) = socket.link_by_name(&interface.name)?.filter(is_veth) {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// True for the host's end of an attachment's pair whose container is still there.
pub fn is_of_attachment(link: &Link) -> bool {
    mark::is_on(link) && is_veth(link) && link.peer_netnsid.is_none_or(|id| id >= 0)
}

fn is_veth(link: &Link) -> bool {
    link.kind.as_deref() == Some("veth")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(id: &str) -> Owner {
        Owner { network: "net".parse().unwrap(), container_id: id.parse().unwrap(), ifname: "eth0".parse().unwrap() }
    }

    #[test]
    fn names_are_derived_from_the_owner() {
        let names: Vec<IfName> = host_names(&owner("c1")).collect();
        assert_eq!(names.len(), 10);
        assert!(names.iter().all(|name| name.as_str().len() == 12));
        assert_eq!(names[0], host_names(&owner("c1")).next().unwrap());
        assert_ne!(names[0], names[1]);
        assert_ne!(names[0], host_names(&owner("c2")).next().unwrap());
    }
}
