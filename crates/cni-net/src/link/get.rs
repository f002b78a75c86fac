//! Finding links.

use netlink_packet_core::DefaultNla;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};

use super::{Link, about};
use crate::errno::Errno;
use crate::error::{Failure, NetError, Operation};
use crate::netlink::{Netlink, rtm};

/// As an attribute of a request; in answers it is inside `IFLA_PROP_LIST` (`include/uapi/linux/if_link.h`).
const IFLA_ALT_IFNAME: u16 = 53;

impl Netlink {
    /// The link that has this name, or has it among its alternative names: the kernel keeps both in one table, so
    /// either way the name is taken. `None` if there is none. Constant time.
    ///
    /// # Errors
    /// The kernel's, for names longer than 15 bytes.
    pub fn link_by_name(&self, name: &str) -> Result<Option<Link>, NetError> {
        let mut message = about(0);
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.find_link(message, || Operation::FindLink { name: name.to_owned() })
    }

    /// The link that has this alternative name (up to 127 bytes). `None` if there is none, or if it is a link's
    /// ordinary name. Constant time.
    ///
    /// # Errors
    /// The kernel's; before Linux 5.5 there are no alternative names.
    pub fn link_by_altname(&self, altname: &str) -> Result<Option<Link>, NetError> {
        let mut message = about(0);
        let value = [altname.as_bytes(), b"\0"].concat();
        message.attributes.push(LinkAttribute::Other(DefaultNla::new(IFLA_ALT_IFNAME, value)));
        let found = self.find_link(message, || Operation::FindLink { name: altname.to_owned() })?;
        Ok(found.filter(|link| link.altnames.iter().any(|name| name == altname)))
    }

    /// The link with this index. `None` if there is none. Constant time.
    ///
    /// # Errors
    /// [`NetError`], with the kernel's error number.
    pub fn link_by_index(&self, index: u32) -> Result<Option<Link>, NetError> {
        // The kernel takes index 0 for "not given" and refuses the request; no link has it.
        if index == 0 {
            return Ok(None);
        }
        self.find_link(about(index), || Operation::FindLinkByIndex { link: index.into() })
    }

    /// All links of the namespace: for garbage collection and repair only, as it costs the more the more there are.
    ///
    /// # Errors
    /// [`NetError::Interrupted`] if links come and go all the time, and the kernel's.
    pub fn links(&self) -> Result<Vec<Link>, NetError> {
        self.list_links(about(0))
    }

    /// The ports of the bridge (bond, VRF) with this index. The kernel filters, but goes through all links.
    ///
    /// # Errors
    /// As [`Netlink::links`].
    pub fn links_with_master(&self, master: u32) -> Result<Vec<Link>, NetError> {
        let mut message = about(0);
        message.attributes.push(LinkAttribute::Controller(master));
        // A kernel that does not know the filter sends everything.
        Ok(self.list_links(message)?.into_iter().filter(|link| link.master == Some(master)).collect())
    }

    fn find_link(&self, mut message: LinkMessage, operation: impl Fn() -> Operation) -> Result<Option<Link>, NetError> {
        message.attributes.push(without_statistics());
        match self.ask(rtm::GETLINK, &message, 0) {
            Ok(answers) => match answers.into_iter().next() {
                Some(link) => Ok(Some(link)),
                None => Err(NetError::NoAnswer { operation: operation() }),
            },
            Err(failure) if failure.is(Errno::NODEV) => Ok(None),
            Err(failure) => Err(failure.during(self, operation())),
        }
    }

    fn list_links(&self, mut message: LinkMessage) -> Result<Vec<Link>, NetError> {
        message.attributes.push(without_statistics());
        let answers =
            self.dump(rtm::GETLINK, &message).map_err(|failure| failure.during(self, Operation::ListLinks))?;
        Ok(answers.into_iter().collect())
    }
}

impl Failure {
    /// The error of `operation`. `socket`, on which it failed, is asked for the link's name.
    pub(crate) fn during(self, socket: &Netlink, operation: Operation) -> NetError {
        let is_named = matches!(&self, Failure::Kernel(reason) if reason.errno != Errno::NODEV);
        self.of(if is_named { operation.with_name(socket) } else { operation })
    }
}

impl Operation {
    /// Asks `socket` for the name of the link.
    pub(crate) fn with_name(mut self, socket: &Netlink) -> Self {
        if let Some(link) = self.link_mut() {
            link.set_name(socket.link_by_index(link.index()).ok().flatten().map(|found| found.name));
        }
        self
    }
}

/// IPv6's statistics are a third of an answer, and not used here (the device's own cannot be left out).
fn without_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}
