//! A bridge's forwarding database: which port leads to a hardware address.

use cni_plugin::MacAddr;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::Errno;
use crate::{NetError, Netlink, Operation};

/// An entry of the forwarding database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdbEntry {
    /// The link, by its index: a port of the bridge, or the bridge itself.
    pub link: u32,
    /// The address is the link's own; otherwise it is a neighbour's behind the port, which the bridge has seen packets from.
    pub is_own: bool,
}

impl Netlink {
    /// What the bridge with this index knows of the address, in a VLAN if it filters them. `None` if it knows nothing, or the
    /// kernel can't be asked for one entry (before Linux 5.0). Constant time.
    ///
    /// # Errors
    /// The kernel's.
    pub fn fdb_entry(&self, bridge: u32, mac: MacAddr, vlan: Option<u16>) -> Result<Option<FdbEntry>, NetError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        message.attributes.push(NeighbourAttribute::Controller(bridge));
        message.attributes.extend(vlan.map(NeighbourAttribute::Vlan));
        match self.ask(RouteNetlinkMessage::GetNeighbour(message), 0) {
            Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewNeighbour(found) => Some(FdbEntry {
                    link: found.header.ifindex,
                    is_own: found.header.state == NeighbourState::Permanent,
                }),
                _ => None,
            })),
            Err(failure) if failure.is(Errno::NOENT) || failure.is(Errno::OPNOTSUPP) => Ok(None),
            Err(failure) => Err(failure.during(self, Operation::FindNeighbour { link: bridge.into(), mac })),
        }
    }
}
