//! Deleting links.

use cni_plugin::IfName;
use netlink_packet_route::link::LinkAttribute;

use super::about;
use crate::errno::Errno;
use crate::error::{Failure, NetError, Operation};
use crate::netlink::{Netlink, rtm};

impl Netlink {
    /// Deletes the link, a veth together with its peer. Idempotent: false if there was none.
    ///
    /// The link is gone at once, but the call lasts some 20 ms, until the kernel has waited for all CPUs that may still
    /// use the device (`synchronize_net` in `unregister_netdevice_many`).
    ///
    /// # Errors
    /// The kernel's: `EOPNOTSUPP` for hardware and `lo`.
    pub fn delete_link(&self, index: u32) -> Result<bool, NetError> {
        match self.tell(rtm::DELLINK, &about(index), 0) {
            Ok(_) => Ok(true),
            Err(failure) if failure.is(Errno::NODEV) => Ok(false),
            Err(failure) => Err(failure.during(self, Operation::DeleteLink { link: index.into() })),
        }
    }

    /// As [`Netlink::delete_link`], of a link whose index is unknown.
    pub(super) fn delete_named(&self, name: &IfName) -> Result<(), Failure> {
        let mut message = about(0);
        message.attributes.push(LinkAttribute::IfName(name.to_string()));
        self.tell(rtm::DELLINK, &message, 0)
    }
}
