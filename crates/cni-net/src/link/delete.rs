//! Deleting links.

use netlink_packet_route::RouteNetlinkMessage;

use super::about;
use crate::error::Errno;
use crate::{NetError, Netlink, Operation};

impl Netlink {
    /// Deletes the link, a veth together with its peer. Idempotent: false if there was none.
    ///
    /// The link is gone at once, but the call lasts some 20 ms, until the kernel has waited for everybody who may still
    /// be looking at the device (`synchronize_net` in `unregister_netdevice_many`).
    ///
    /// # Errors
    /// The kernel's: `EOPNOTSUPP` for hardware and `lo`.
    pub fn delete_link(&self, index: u32) -> Result<bool, NetError> {
        match self.ask(RouteNetlinkMessage::DelLink(about(index)), 0) {
            Ok(_) => Ok(true),
            Err(failure) if failure.is(Errno::NODEV) => Ok(false),
            Err(failure) => Err(failure.during(Operation::DeleteLink { link: index })),
        }
    }
}
