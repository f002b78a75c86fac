//! The two network namespaces of an attachment, each with one socket, and the refusal of a second ADD.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use cni_net::{LinkChange, NetError, NetNs, NetNsError, Netlink};
use cni_plugin::{Attachment, IfName, Lock, LockError, Owner, Undo};

use crate::mark;
use crate::print::Place;

/// Why an attachment can't be begun.
#[derive(Debug, thiserror::Error)]
pub enum RepeatError {
    /// The kernel refused.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Another call for the attachment doesn't end.
    #[error(transparent)]
    Lock(#[from] LockError),
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

/// Why the namespaces can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum SidesError {
    /// The container's.
    #[error(transparent)]
    NetNs(#[from] NetNsError),
    /// A socket.
    #[error(transparent)]
    Net(#[from] NetError),
}

/// The node's side of an attachment and the container's.
#[derive(Debug)]
pub struct Sides {
    /// A socket in the node's namespace, that of the calling thread.
    pub host: Rc<Netlink>,
    /// The container's side.
    pub container: ContainerSide,
}

/// The container's side of an attachment.
#[derive(Debug)]
pub struct ContainerSide {
    /// The namespace.
    pub namespace: NetNs,
    /// A socket in it.
    pub netlink: Rc<Netlink>,
}

impl ContainerSide {
    /// Sets the link with this index up. Idempotent.
    ///
    /// # Errors
    /// As [`Netlink::change_link`].
    pub fn set_up(&self, index: u32) -> Result<(), NetError> {
        self.netlink.change_link(index, &LinkChange { up: Some(true), ..LinkChange::default() })
    }
}

impl Sides {
    /// Opens the container's namespace at this path, and a socket on either side.
    ///
    /// # Errors
    /// As [`NetNs::open`] and [`Netlink::open`].
    pub fn open(netns: &Path) -> Result<Self, SidesError> {
        let namespace = NetNs::open(netns)?;
        let host = Rc::new(Netlink::open()?);
        let netlink = Rc::new(Netlink::open_in(&namespace)?);
        Ok(Self { host, container: ContainerSide { namespace, netlink } })
    }

    /// The socket there.
    pub fn socket(&self, place: Place) -> &Rc<Netlink> {
        match place {
            Place::Node => &self.host,
            Place::Container => &self.container.netlink,
        }
    }

    /// Refuses a second ADD of an attachment. This has to be called before IPAM is asked: taking the failure back would
    /// release the first one's addresses. An ADD of the same attachment that runs at the same time, which runtimes must not
    /// start and sometimes do, is waited for until it has ended with all that it has to take back, if locks work here. The
    /// lock is held until `undo` has been run or committed.
    ///
    /// A host's end of a veth pair whose container is gone, and which the kernel is about to delete, is deleted.
    ///
    /// # Errors
    /// [`RepeatError`].
    pub fn refuse_repeat(&self, attachment: &Attachment, undo: &mut Undo) -> Result<(), RepeatError> {
        let owner = &attachment.owner;
        Lock::hold_attachment(owner, undo)?;
        if let Some(found) = self.container.netlink.link_by_name(owner.ifname.as_str())? {
            let kind = found.kind.unwrap_or_else(|| "link".to_owned());
            let netns = attachment.netns.clone();
            return Err(RepeatError::InterfaceExists { ifname: owner.ifname.clone(), kind, netns });
        }
        match mark::find(&self.host, &owner.key())? {
            Some(stale) if stale.peer_netnsid.is_some_and(|id| id < 0) => {
                self.host.delete_link(stale.index)?;
                Ok(())
            }
            Some(found) => Err(RepeatError::Attached { owner: Box::new(owner.clone()), link: found.name }),
            None => Ok(()),
        }
    }
}
