//! A change of a link's attributes, read the other way: what they are before it, and what of it isn't so.

use std::fmt;

use cni_plugin::Difference;

use super::{Link, LinkChange};

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
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};

    #[test]
    fn before_compare_and_display_know_the_same_attributes() {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName("eth0".to_owned()));
        message.attributes.push(LinkAttribute::Mtu(1500));
        message.attributes.push(LinkAttribute::TxQueueLen(1000));
        message.attributes.push(LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]));
        let link = Link::from_message(message);
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
