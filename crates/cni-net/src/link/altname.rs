//! Alternative names (`ip link property`).

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::{LinkAttribute, LinkMessage, Prop};

use super::about;
use crate::errno::Errno;
use crate::error::{NetError, Operation};
use crate::netlink::{Netlink, rtm};

impl Netlink {
    /// Gives the link a further name, of up to 127 bytes, by which [`Netlink::link_by_altname`] finds it. Not
    /// idempotent. It shares its table with the ordinary names, and is deleted with the link.
    ///
    /// # Errors
    /// [`NetError::Exists`] if a link, this one or another, has the name; [`NetError::NoSuchLink`]; otherwise the
    /// kernel's (`EOPNOTSUPP` before Linux 5.5).
    pub fn add_altname(&self, index: u32, altname: &str) -> Result<(), NetError> {
        self.add_altnames(index, &[altname])
    }

    /// The same with several names at once: a process that is killed has given all of them, or none. After an error the link may have
    /// some of them.
    ///
    /// # Errors
    /// As [`Netlink::add_altname`]; the error has all names.
    pub fn add_altnames(&self, index: u32, altnames: &[&str]) -> Result<(), NetError> {
        let mut message = about(index);
        let names = altnames.iter().map(|name| Prop::AltIfName((*name).to_owned()));
        message.attributes.push(LinkAttribute::PropList(names.collect()));
        let altname = altnames.join(" ");
        let operation = Operation::NameLink { link: index.into(), altname: altname.clone() };
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        match self.tell(rtm::NEWLINKPROP, &message, flags) {
            Ok(_) => Ok(()),
            Err(failure) if failure.is(Errno::EXIST) => Err(NetError::Exists { operation, name: altname }),
            Err(failure) => Err(failure.during(self, operation)),
        }
    }

    /// Takes an alternative name from the link with this index. Idempotent: false if the link doesn't have it, or
    /// doesn't exist.
    ///
    /// # Errors
    /// The kernel's (`EOPNOTSUPP` before Linux 5.5).
    pub fn delete_altname(&self, index: u32, altname: &str) -> Result<bool, NetError> {
        let mut message: LinkMessage = about(index);
        message.attributes.push(LinkAttribute::PropList(vec![Prop::AltIfName(altname.to_owned())]));
        match self.tell(rtm::DELLINKPROP, &message, 0) {
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
