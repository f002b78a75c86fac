//! The veth pair of an attachment: one end on the node, with the owner written on it, the other in the container. The
//! same for every plugin that makes one.

mod check;
mod create;
mod delete;

use std::path::PathBuf;

use cni_plugin::{Attachment, CniResult, IfName, Lock, LockError, Owner, Undo, sha512_hex};

use crate::{Link, NetError, NetNsError, Netlink};

pub use check::{PairCheck, check_mac};
pub use create::{Pair, PairSpec, create};
pub use delete::{delete, retain};

/// What the alternative names of all attachments begin with.
const ALTNAME_PREFIX: &str = "cni-";
/// How many names the host's end may have.
const NAMES: u32 = 10;
/// The longest text that a link carries: `IFALIASZ` of `include/uapi/linux/if.h`, less the zero that comes with it and one
/// more (`dev_set_alias` in net/core/dev.c).
const ALIAS_MAX: usize = 254;

/// Why a pair could not be made, found or deleted.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The kernel refused.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The container's namespace can't be entered.
    #[error(transparent)]
    NetNs(#[from] NetNsError),
    /// Another call for the attachment doesn't end.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// There are no random numbers for its addresses.
    #[error("cannot choose a MAC address: {0}")]
    Random(#[from] std::io::Error),
    /// Every name of the host's end belongs to somebody else.
    #[error("every name for the host's end of {0} belongs to another link: delete the links that nobody uses")]
    NoName(Box<Owner>),
    /// Each of the names that were asked for belongs to another link.
    #[error("{} belongs to another link ({holder})", names_tried(.names))]
    NamesTaken {
        /// The names, in the order in which they were tried.
        names: Vec<IfName>,
        /// The link that has the first one, in words.
        holder: String,
    },
    /// The interface is there, perhaps by an earlier ADD.
    #[error(
        "the container has an interface {ifname} already (a {kind}, in {netns:?}): DEL it first, or use another \
         CNI_IFNAME"
    )]
    InterfaceExists {
        /// Its name.
        ifname: IfName,
        /// What it is.
        kind: String,
        /// The namespace.
        netns: PathBuf,
    },
    /// An earlier ADD of the same attachment was in another namespace.
    #[error("{owner} is attached already, by {link} and an interface in another namespace: DEL it first")]
    Attached {
        /// Whose attachment.
        owner: Box<Owner>,
        /// The host's end.
        link: String,
    },
}

fn names_tried(names: &[IfName]) -> String {
    match names {
        [name] => format!("the name {:?}", name.as_str()),
        _ => format!("each of the names {}", names.iter().map(IfName::as_str).collect::<Vec<_>>().join(", ")),
    }
}

/// The names that the host's end of a pair may have: the first is tried first, the others if another owner's link has
/// that name. Derived from the owner, so that even a link whose maker was killed before it could write the owner on it
/// is found again.
pub fn host_names(owner: &Owner) -> impl Iterator<Item = IfName> {
    let key = owner.key();
    (0..NAMES).filter_map(move |salt| format!("veth{}", sha512_hex(&[&key, &salt.to_string()], 8)).parse().ok())
}

/// The alternative name by which the host's end is found in constant time.
fn altname(owner: &Owner) -> String {
    format!("{ALTNAME_PREFIX}{}", owner.key())
}

/// True if the owner with this key ([`Owner::key`]) has a pair whose other end is still there, or if that can't be told.
pub fn is_attached(socket: &Netlink, owner_key: &str) -> bool {
    let found = socket.link_by_altname(&format!("{ALTNAME_PREFIX}{owner_key}"));
    found.map_or(true, |link| link.is_some_and(|link| link.peer_netnsid.is_none_or(|id| id >= 0)))
}

/// True if the container of an owner with this key, whose host end had the index `link`, is still there, or if that can't be
/// told. The owner's mark decides: the number may have been given to another link after a restart of the node. A veth of that
/// number without any mark may be one that the Go plugin made.
///
/// Opens a socket in the network namespace of the calling thread.
pub fn is_there(owner_key: &str, link: u32) -> bool {
    let Ok(socket) = Netlink::open() else { return true };
    match socket.link_by_altname(&format!("{ALTNAME_PREFIX}{owner_key}")) {
        Ok(Some(found)) => return found.peer_netnsid.is_none_or(|id| id >= 0),
        Err(_) => return true,
        Ok(None) => {}
    }
    let found = socket.link_by_index(link);
    found.map_or(true, |found| found.is_some_and(|found| is_veth(&found) && !has_owner(&found)))
}

/// The owner in words, for `ip link`.
fn alias(owner: &Owner) -> Option<String> {
    let text = format!("cni {} {} {}", owner.network, owner.container_id, owner.ifname);
    text.get(..text.len().min(ALIAS_MAX)).map(str::to_owned)
}

/// Refuses a second ADD of an attachment, which has to happen before IPAM is asked: taking the failure back would
/// release the first one's addresses. Also one that runs at the same time, which runtimes must not start and sometimes do:
/// it waits here until this one has ended, with all that has to be taken back. Where there is no lock, it doesn't.
///
/// A host's end whose container is gone, and which the kernel is about to delete, is deleted here.
pub fn refuse_repeat(
    socket: &Netlink,
    inside: &Netlink,
    attachment: &Attachment,
    undo: &mut Undo,
) -> Result<(), PairError> {
    let owner = &attachment.owner;
    Lock::hold_attachment(owner, undo)?;
    if let Some(found) = inside.link_by_name(owner.ifname.as_str())? {
        let kind = found.kind.unwrap_or_else(|| "link".to_owned());
        let netns = attachment.netns.clone();
        return Err(PairError::InterfaceExists { ifname: owner.ifname.clone(), kind, netns });
    }
    match socket.link_by_altname(&altname(owner))? {
        Some(stale) if stale.peer_netnsid.is_some_and(|id| id < 0) => {
            socket.delete_link(stale.index)?;
            Ok(())
        }
        Some(found) => Err(PairError::Attached { owner: Box::new(owner.clone()), link: found.name }),
        None => Ok(()),
    }
}

/// The owner's host end: by the alternative name, or by the name derived from the owner, if its maker was killed before
/// it could write one. Constant time.
pub fn find(socket: &Netlink, owner: &Owner) -> Result<Option<Link>, NetError> {
    if let Some(link) = socket.link_by_altname(&altname(owner))? {
        return Ok(Some(link));
    }
    let Some(name) = host_names(owner).next() else { return Ok(None) };
    let link = socket.link_by_name(name.as_str())?;
    Ok(link.filter(|link| is_veth(link) && link.altnames.is_empty()))
}

/// The owner's host end; else, for a pair that the Go plugin made and that has no owner, the veth that the result names.
pub fn find_or_told(socket: &Netlink, owner: &Owner, told: &CniResult) -> Result<Option<Link>, NetError> {
    if let Some(link) = find(socket, owner)? {
        return Ok(Some(link));
    }
    for interface in told.interfaces.iter().filter(|interface| interface.sandbox.is_empty()) {
        if let Some(link) = socket.link_by_name(&interface.name)?.filter(is_veth) {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// True for the host's end of an attachment's pair whose container is still there.
pub fn is_of_attachment(link: &Link) -> bool {
    has_owner(link) && is_veth(link) && link.peer_netnsid.is_none_or(|id| id >= 0)
}

fn has_owner(link: &Link) -> bool {
    link.altnames.iter().any(|name| name.starts_with(ALTNAME_PREFIX))
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

    #[test]
    fn the_owner_fits_on_the_link() {
        let long = owner(&"f".repeat(300));
        // ALTIFNAMSIZ is 128 with its end.
        assert!(altname(&long).len() < 128);
        assert_eq!(alias(&long).unwrap().len(), 254);
        assert_eq!(alias(&owner("c1")).unwrap(), "cni net c1 eth0");
    }
}
