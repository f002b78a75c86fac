//! Taking an alternative name away.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, Prop};

use super::about;
use crate::error::Errno;
use crate::{NetError, Netlink, Operation};

impl Netlink {
    /// Takes an alternative name from the link with this index. Idempotent: false if the link doesn't have it, or
    /// doesn't exist.
    ///
    /// # Errors
    /// The kernel's (`EOPNOTSUPP` before Linux 5.5).
    pub fn delete_altname(&self, index: u32, altname: &str) -> Result<bool, NetError> {
        let mut message: LinkMessage = about(index);
        message.attributes.push(LinkAttribute::PropList(vec![Prop::AltIfName(altname.to_owned())]));
        match self.ask(RouteNetlinkMessage::DelLinkProp(message), 0) {
            Ok(_) => Ok(true),
            Err(failure) if failure.is(Errno::NOENT) || failure.is(Errno::NODEV) => Ok(false),
            // The name is another link's (netdev_name_node_alt_destroy in net/core/dev.c).
            Err(failure) if failure.is(Errno::INVAL) => Ok(false),
            Err(failure) => {
                Err(failure.during(self, Operation::UnnameLink { link: index.into(), altname: altname.to_owned() }))
            }
        }
    }
}
