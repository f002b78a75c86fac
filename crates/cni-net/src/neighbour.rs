//! Neighbours that are set by hand: which Ethernet address a next hop has, where nobody answers ARP.

use std::net::IpAddr;

use cni_plugin::{Family, MacAddr};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};

use crate::errno::Errno;
use crate::error::{NetError, Operation};
use crate::netlink::{Netlink, address_family, rtm};

/// A permanent neighbour of a link. Prints itself as `ip neigh` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbour {
    /// Its IP address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: MacAddr,
}

impl std::fmt::Display for Neighbour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} lladdr {}", self.address, self.mac)
    }
}

fn message(link: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = address_family(Family::of(address));
    message.header.ifindex = link;
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message
}

impl Netlink {
    /// Makes this a permanent neighbour of the link with this index, in the place of what is known of its address. Idempotent.
    ///
    /// # Errors
    /// [`NetError::NoSuchLink`]; otherwise the kernel's: `ENETDOWN` if the link is down.
    pub fn set_neighbour(&self, link: u32, neighbour: &Neighbour) -> Result<(), NetError> {
        let Neighbour { address, mac } = *neighbour;
        let mut message = message(link, address);
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        self.tell(rtm::NEWNEIGH, &message, NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(|failure| failure.during(self, Operation::SetNeighbour { link: link.into(), address, mac }))
    }

    /// Forgets what the link with this index has for the address. Idempotent.
    ///
    /// # Errors
    /// The kernel's.
    pub fn delete_neighbour(&self, link: u32, address: IpAddr) -> Result<(), NetError> {
        match self.tell(rtm::DELNEIGH, &message(link, address), 0) {
            Err(failure) if !failure.is(Errno::NOENT) && !failure.is(Errno::NODEV) => {
                Err(failure.during(self, Operation::DeleteNeighbour { link: link.into(), address }))
            }
            _ => Ok(()),
        }
    }

    /// The permanent neighbours of one IP version of the link with this index. The kernel filters by link.
    ///
    /// # Errors
    /// [`NetError::Interrupted`] if neighbours come and go all the time, and the kernel's.
    pub fn neighbours(&self, link: u32, family: Family) -> Result<Vec<Neighbour>, NetError> {
        let mut message = NeighbourMessage::default();
        message.header.family = address_family(family);
        message.attributes.push(NeighbourAttribute::IfIndex(link));
        let answers: Vec<NeighbourMessage> = self
            .dump(rtm::GETNEIGH, &message)
            .map_err(|failure| failure.during(self, Operation::ListNeighbours { link: link.into() }))?;
        let permanent = answers
            .iter()
            .filter(|found| found.header.ifindex == link && found.header.state == NeighbourState::Permanent);
        Ok(permanent.filter_map(of).collect())
    }
}

fn of(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(MacAddr),
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some((*ip).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some((*ip).into()),
            _ => {}
        }
    }
    Some(Neighbour { address: address?, mac: mac? })
}
