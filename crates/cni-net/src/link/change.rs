//! Changing a link's settings and names.

use cni_plugin::{IfName, MacAddr};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, Prop};

use super::about;
use crate::error::Errno;
use crate::{NetError, Netlink, Operation};

/// What to change; what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// Raise it, or take it down.
    pub up: Option<bool>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Ethernet address.
    pub mac: Option<MacAddr>,
    /// The bridge to make it a port of; `Some(None)` takes it out of the one it is in.
    pub master: Option<Option<u32>>,
    /// Our share in its promiscuity (`IFF_PROMISC`); it stays promiscuous while others want it.
    pub promisc: Option<bool>,
    /// Our share in its receiving all multicast packets (`IFF_ALLMULTI`).
    pub allmulti: Option<bool>,
    /// Text for people, up to 255 bytes; an empty one removes it.
    pub alias: Option<String>,
    /// Length of the transmit queue, in packets.
    pub txqlen: Option<u32>,
    /// Another name. Before Linux 6.2 the link must be down.
    pub name: Option<IfName>,
}

impl Netlink {
    /// Makes the changes with one message. Idempotent. Not all or nothing: the kernel makes them one after the other
    /// and stops at the first that fails; the flags (`up`, `promisc`, `allmulti`) are among the last.
    ///
    /// # Errors
    /// [`NetError::NoSuchLink`]; [`NetError::Exists`] if the new name is taken; otherwise the kernel's.
    pub fn change_link(&self, index: u32, change: &LinkChange) -> Result<(), NetError> {
        let operation = Operation::ChangeLink { link: index.into() };
        match self.ask(RouteNetlinkMessage::SetLink(change_message(index, change)), 0) {
            Ok(_) => Ok(()),
            Err(failure) => match &change.name {
                Some(name) if failure.is(Errno::EXIST) => Err(NetError::Exists { operation, name: name.to_string() }),
                _ => Err(failure.during(self, operation)),
            },
        }
    }

    /// Gives the link a further name, of up to 127 bytes, by which [`Netlink::link_by_altname`] finds it. Not
    /// idempotent. It shares its table with the ordinary names, and goes when the link does.
    ///
    /// # Errors
    /// [`NetError::Exists`] if a link, this one or another, has the name; [`NetError::NoSuchLink`]; otherwise the
    /// kernel's (`EOPNOTSUPP` before Linux 5.5).
    pub fn add_altname(&self, index: u32, altname: &str) -> Result<(), NetError> {
        let mut message = about(index);
        message.attributes.push(LinkAttribute::PropList(vec![Prop::AltIfName(altname.to_owned())]));
        let operation = Operation::NameLink { link: index.into(), altname: altname.to_owned() };
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        match self.ask(RouteNetlinkMessage::NewLinkProp(message), flags) {
            Ok(_) => Ok(()),
            Err(failure) if failure.is(Errno::EXIST) => Err(NetError::Exists { operation, name: altname.to_owned() }),
            Err(failure) => Err(failure.during(self, operation)),
        }
    }
}

fn change_message(index: u32, change: &LinkChange) -> LinkMessage {
    let mut message = about(index);
    for (wanted, flag) in
        [(change.up, LinkFlags::Up), (change.promisc, LinkFlags::Promisc), (change.allmulti, LinkFlags::Allmulti)]
    {
        if let Some(on) = wanted {
            message.header.change_mask |= flag;
            message.header.flags.set(flag, on);
        }
    }
    let attributes = &mut message.attributes;
    attributes.extend(change.name.as_ref().map(|name| LinkAttribute::IfName(name.to_string())));
    attributes.extend(change.mtu.map(LinkAttribute::Mtu));
    attributes.extend(change.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    attributes.extend(change.master.map(|master| LinkAttribute::Controller(master.unwrap_or(0))));
    attributes.extend(change.alias.clone().map(LinkAttribute::IfAlias));
    attributes.extend(change.txqlen.map(LinkAttribute::TxQueueLen));
    message
}
