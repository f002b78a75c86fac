//! Changing a link's settings; what they are before a change, and how a link differs from one.

use std::fmt;

use cni_plugin::{Difference, IfName, MacAddr};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use super::{Link, about};
use crate::errno::Errno;
use crate::error::{Failure, KernelError, NetError, Operation};
use crate::netlink::{Netlink, rtm};
use crate::netns::NetNs;

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
        match self.tell(rtm::SETLINK, &change_message(index, change), 0) {
            Ok(_) => Ok(()),
            // macvlan_open and macvlan_set_mac_address in drivers/net/macvlan.c
            Err(Failure::Kernel(KernelError { errno: Errno::ADDRINUSE, text: None })) => {
                let text = Some("another link on the same parent has its hardware address".to_owned());
                let failure = Failure::Kernel(KernelError { errno: Errno::ADDRINUSE, text });
                Err(failure.during(self, operation))
            }
            Err(failure) => match &change.name {
                Some(name) if failure.is(Errno::EXIST) => Err(NetError::Exists { operation, name: name.to_string() }),
                _ => Err(failure.during(self, operation)),
            },
        }
    }

    /// Moves the link with this index to another namespace and changes it there, with one message. The kernel takes it down
    /// first and drops its addresses, its routes and its master; its alternative names stay. The index may be another one there.
    ///
    /// Without a new name the link keeps its own. With one it arrives under its own and is renamed at once; under the new one
    /// if its own is taken (`do_setlink` in net/core/rtnetlink.c).
    ///
    /// # Errors
    /// [`NetError::Exists`] if the name is taken there, in which case the link may have been moved under its own name;
    /// [`NetError::NoSuchLink`]; otherwise the kernel's: a link such as `lo` stays where it is (EINVAL).
    pub fn move_link(&self, index: u32, to: &NetNs, change: &LinkChange) -> Result<(), NetError> {
        let operation = Operation::MoveLink { link: index.into(), to: to.path().to_owned() };
        let mut message = change_message(index, change);
        message.attributes.push(LinkAttribute::NetNsFd(to.raw_fd()));
        match self.tell(rtm::SETLINK, &message, 0) {
            Ok(_) => Ok(()),
            Err(failure) => match &change.name {
                Some(name) if failure.is(Errno::EXIST) => Err(NetError::Exists { operation, name: name.to_string() }),
                _ => Err(failure.during(self, operation)),
            },
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

/// An attribute, as `ip link` and the plugins' configurations call it, and its value.
type Shown = (&'static str, Option<String>);

impl LinkChange {
    /// The attributes that this changes, as the link has them now: the change that takes this one back. Of the MAC
    /// address, MTU, promiscuity, multicast and queue length; the others have no way back.
    pub fn before(&self, link: &Link) -> LinkChange {
        LinkChange {
            mac: self.mac.and(link.mac),
            mtu: self.mtu.map(|_| link.mtu),
            promisc: self.promisc.map(|_| link.promisc),
            allmulti: self.allmulti.map(|_| link.all_multicast),
            txqlen: self.txqlen.map(|_| link.txqlen),
            ..LinkChange::default()
        }
    }

    /// The same attributes in changes of one each, so that one that fails doesn't keep the others.
    pub fn each(&self) -> impl Iterator<Item = LinkChange> {
        let none = LinkChange::default;
        let single = [
            LinkChange { mtu: self.mtu, ..none() },
            LinkChange { mac: self.mac, ..none() },
            LinkChange { promisc: self.promisc, ..none() },
            LinkChange { allmulti: self.allmulti, ..none() },
            LinkChange { txqlen: self.txqlen, ..none() },
        ];
        single.into_iter().filter(move |change| *change != none())
    }

    /// Which of these attributes the link has otherwise.
    pub fn compare(&self, link: &Link) -> Vec<Difference> {
        let pairs = self.shown().into_iter().zip(self.before(link).shown());
        let differs = |((name, wanted), (_, found)): (Shown, Shown)| {
            let (wanted, found) = (wanted?, found.unwrap_or_default());
            (wanted != found).then(|| Difference::new(format!("{name} of {}", link.name), wanted, found))
        };
        pairs.filter_map(differs).collect()
    }

    fn shown(&self) -> [Shown; 5] {
        [
            ("MAC address", self.mac.map(|mac| mac.to_string())),
            ("mtu", self.mtu.map(|mtu| mtu.to_string())),
            ("promisc", self.promisc.map(|on| on.to_string())),
            ("allmulti", self.allmulti.map(|on| on.to_string())),
            ("txQLen", self.txqlen.map(|length| length.to_string())),
        ]
    }
}

/// The attributes that [`LinkChange::before`] knows: `mtu 1400, promisc true`.
impl fmt::Display for LinkChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.shown().into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
        f.write_str(&parts.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::{Emitable, Parseable};

    #[test]
    fn before_compare_and_display_know_the_same_attributes() {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName("eth0".to_owned()));
        message.attributes.push(LinkAttribute::Mtu(1500));
        message.attributes.push(LinkAttribute::TxQueueLen(1000));
        message.attributes.push(LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]));
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        let link = Link::parse(&bytes).unwrap();
        let mac = "02:00:00:00:00:02".parse().unwrap();
        let change = LinkChange {
            mac: Some(mac),
            mtu: Some(1500),
            promisc: Some(true),
            allmulti: Some(false),
            txqlen: Some(7),
            ..LinkChange::default()
        };
        assert_eq!(
            change.before(&link).to_string(),
            "MAC address 02:00:00:00:00:01, mtu 1500, promisc false, allmulti false, txQLen 1000"
        );
        let found: Vec<String> = change.compare(&link).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "MAC address of eth0: expected 02:00:00:00:00:02, found 02:00:00:00:00:01",
                "promisc of eth0: expected true, found false",
                "txQLen of eth0: expected 7, found 1000",
            ]
        );
        assert_eq!(change.each().count(), 5);
        assert_eq!(LinkChange { up: Some(true), ..LinkChange::default() }.each().count(), 0);
        assert!(change.before(&link).compare(&link).is_empty());
    }
}
