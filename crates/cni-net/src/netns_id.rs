//! The numbers by which one namespace knows others (`link-netnsid` of `ip link`).

use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};

use crate::netlink::{Netlink, Object, rtm};
use crate::netns::NetNs;

impl Object for NsidMessage {
    const DESCRIBED_BY: &'static [u16] = &[rtm::NEWNSID];
}

impl Netlink {
    /// The number that this socket's namespace has for `other`, as [`Link::peer_netnsid`](crate::Link::peer_netnsid) has it.
    /// `None` if it has none yet: listing the links makes the kernel number the namespaces that they lead into.
    pub fn netns_id(&self, other: &NetNs) -> Option<i32> {
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(other.raw_fd().cast_unsigned()));
        let answers: Vec<NsidMessage> = self.ask(rtm::GETNSID, &message, 0).ok()?;
        answers.iter().find_map(|found| {
            found.attributes.iter().find_map(|attribute| match attribute {
                // -1: not numbered.
                NsidAttribute::Id(id) if *id >= 0 => Some(*id),
                _ => None,
            })
        })
    }
}
