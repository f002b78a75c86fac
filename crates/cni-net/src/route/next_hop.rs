//! What the kernel knows of a next hop: its neighbour table.

use std::net::IpAddr;

use cni_plugin::{Family, MacAddr};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};

use crate::errno::Errno;
use crate::error::{NetError, Operation};
use crate::netlink::{Netlink, address_family, rtm};

/// A neighbour on a link, as `ip neigh` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// Its Ethernet address; none as long as it has not answered.
    pub mac: Option<MacAddr>,
    /// How sure the kernel is.
    pub state: NextHopState,
}

/// What the kernel does with a packet to a neighbour (`NUD_…`, `include/uapi/linux/neighbour.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextHopState {
    /// Sends it; an administrator has set the address, and nothing corrects it.
    Permanent,
    /// Sends it, and asks again if there is no sign of life.
    Known,
    /// Waits for an answer (`INCOMPLETE`).
    Unanswered,
    /// Drops it: nobody answered (`FAILED`).
    Failed,
}

impl Netlink {
    /// What this namespace knows of the neighbour `to` on the link. `None` if it knows nothing. Constant time.
    ///
    /// # Errors
    /// [`NetError::NoSuchLink`]; otherwise the kernel's.
    pub fn next_hop(&self, link: u32, to: IpAddr) -> Result<Option<NextHop>, NetError> {
        let mut message = NeighbourMessage::default();
        message.header.family = address_family(Family::of(to));
        message.header.ifindex = link;
        message.attributes.push(NeighbourAttribute::Destination(to.into()));
        match self.ask(rtm::GETNEIGH, &message, 0) {
            Ok(answers) => Ok(answers.first().map(described)),
            Err(failure) if failure.is(Errno::NOENT) || failure.is(Errno::OPNOTSUPP) => Ok(None),
            Err(failure) => Err(failure.during(self, Operation::FindNextHop { link: link.into(), to })),
        }
    }
}

fn described(message: &NeighbourMessage) -> NextHop {
    let state = match message.header.state {
        NeighbourState::Permanent | NeighbourState::Noarp => NextHopState::Permanent,
        NeighbourState::Failed => NextHopState::Failed,
        NeighbourState::Incomplete | NeighbourState::None => NextHopState::Unanswered,
        _ => NextHopState::Known,
    };
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.clone().try_into().ok().map(MacAddr),
        _ => None,
    });
    NextHop { mac, state }
}
