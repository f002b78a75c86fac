//! Traffic control (tc(8)): queueing disciplines of links, and the filter that redirects what a link receives.

mod qdisc;
mod redirect;
mod tbf;

use netlink_packet_route::tc::TcMessage;

use crate::netlink::{Object, rtm};

pub use qdisc::{Place, Qdisc, QdiscKind};
pub use tbf::Tbf;

impl Object for TcMessage {
    const DESCRIBED_BY: &'static [u16] = &[rtm::NEWQDISC, rtm::NEWTFILTER];
}

/// A message about the link with this index.
fn about(link: u32) -> TcMessage {
    // The kernel's indexes are positive `int`s (`dev_new_index` in net/core/dev.c).
    TcMessage::with_index(i32::try_from(link).unwrap_or_default())
}
