//! Forwarding databases: which port of a bridge leads to a hardware address, and which host behind a VXLAN device.

use std::net::IpAddr;

use cni_plugin::MacAddr;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use crate::errno::Errno;
use crate::error::{NetError, Operation};
use crate::netlink::{Netlink, Object, rtm};

/// An entry of the forwarding database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdbEntry {
    /// The link, by its index: a port of the bridge, or the bridge itself.
    pub link: u32,
    /// The address is the link's own; otherwise it is a neighbour's behind the port, which the bridge has seen packets from.
    pub is_own: bool,
}

/// An entry of a VXLAN device's forwarding database: frames to `mac` go to the host `to`. Prints itself as `bridge fdb` takes
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VxlanFdbEntry {
    /// The hardware address of a frame, or [`VxlanFdbEntry::FLOOD`].
    pub mac: MacAddr,
    /// The host.
    pub to: IpAddr,
    /// It was configured; otherwise the device has learnt it and forgets it in time.
    pub permanent: bool,
}

impl VxlanFdbEntry {
    /// In the place of an address: broadcasts, multicasts and frames to addresses that have no entry. Each of the entries
    /// with it gets a copy.
    pub const FLOOD: MacAddr = MacAddr([0; 6]);

    /// A permanent entry.
    pub fn new(mac: MacAddr, to: IpAddr) -> Self {
        Self { mac, to, permanent: true }
    }

    /// The entry for frames to unknown addresses.
    pub fn flood(to: IpAddr) -> Self {
        Self::new(Self::FLOOD, to)
    }

    fn message(&self, link: u32) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = link;
        message.header.flags = NeighbourFlags::Own;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(self.mac.0.to_vec()));
        message.attributes.push(NeighbourAttribute::Destination(self.to.into()));
        message
    }

    fn of(message: &NeighbourMessage) -> Option<Self> {
        let (mut mac, mut to) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(MacAddr),
                NeighbourAttribute::Destination(address) => to = host(address),
                _ => {}
            }
        }
        // In answers the permanent state may come with `NUD_NOARP` (0x40), as `bridge fdb` sets it.
        let permanent = u16::from(message.header.state) & u16::from(NeighbourState::Permanent) != 0;
        Some(Self { mac: mac?, to: to?, permanent })
    }
}

/// The family in the message's header is `AF_BRIDGE`: the length tells which address it is.
fn host(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(address) => Some((*address).into()),
        NeighbourAddress::Inet6(address) => Some((*address).into()),
        NeighbourAddress::Other(bytes) => {
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).ok().map(IpAddr::from);
            v4.or_else(|| <[u8; 16]>::try_from(bytes.as_slice()).ok().map(IpAddr::from))
        }
        _ => None,
    }
}

impl std::fmt::Display for VxlanFdbEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} dst {}", self.mac, self.to)
    }
}

impl Object for NeighbourMessage {
    const DESCRIBED_BY: &'static [u16] = &[rtm::NEWNEIGH];
}

impl Netlink {
    /// Adds the entry to the forwarding database of the VXLAN device with this index, beside others of the same address.
    /// Idempotent.
    ///
    /// # Errors
    /// [`NetError::NoSuchLink`]; otherwise the kernel's: `EAFNOSUPPORT` if the device speaks the other address family.
    pub fn add_fdb_entry(&self, link: u32, entry: &VxlanFdbEntry) -> Result<(), NetError> {
        // Only for addresses that stand for many the kernel appends; another address has one host (`vxlan_fdb_update_create`).
        let flags = NLM_F_CREATE | if entry.mac == VxlanFdbEntry::FLOOD { NLM_F_APPEND } else { NLM_F_EXCL };
        match self.tell(rtm::NEWNEIGH, &entry.message(link), flags) {
            Err(failure) if !failure.is(Errno::EXIST) => {
                let (mac, to) = (entry.mac, entry.to);
                Err(failure.during(self, Operation::AddFdbEntry { link: link.into(), mac, to }))
            }
            _ => Ok(()),
        }
    }

    /// Deletes the entry, of that host only. Idempotent; of an address with several hosts the kernel doesn't say whether this was
    /// one of them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn delete_fdb_entry(&self, link: u32, entry: &VxlanFdbEntry) -> Result<(), NetError> {
        match self.tell(rtm::DELNEIGH, &entry.message(link), 0) {
            Ok(_) => Ok(()),
            Err(failure) if failure.is(Errno::NOENT) || failure.is(Errno::NODEV) => Ok(()),
            Err(failure) => {
                let (mac, to) = (entry.mac, entry.to);
                Err(failure.during(self, Operation::DeleteFdbEntry { link: link.into(), mac, to }))
            }
        }
    }

    /// The forwarding database of the VXLAN device with this index, what it has learnt included. The kernel filters by device.
    ///
    /// # Errors
    /// [`NetError::Interrupted`] if entries come and go all the time, and the kernel's.
    pub fn fdb_entries(&self, link: u32) -> Result<Vec<VxlanFdbEntry>, NetError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = link;
        let answers: Vec<NeighbourMessage> = self
            .dump(rtm::GETNEIGH, &message)
            .map_err(|failure| failure.during(self, Operation::ListFdb { link: link.into() }))?;
        // Entries of the bridge that the device is a port of are listed too; these lead to no host.
        let own = answers.iter().filter(|found| found.header.ifindex == link);
        let mut entries: Vec<_> = own.filter_map(VxlanFdbEntry::of).collect();
        entries.sort_unstable();
        entries.dedup();
        Ok(entries)
    }

    /// What the bridge with this index knows of the address, in a VLAN if it filters them. `None` if it knows nothing, or the
    /// kernel can't be asked for one entry (before Linux 5.0). Constant time.
    ///
    /// # Errors
    /// [`NetError`], with the kernel's error number.
    pub fn fdb_entry(&self, bridge: u32, mac: MacAddr, vlan: Option<u16>) -> Result<Option<FdbEntry>, NetError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        message.attributes.push(NeighbourAttribute::Controller(bridge));
        message.attributes.extend(vlan.map(NeighbourAttribute::Vlan));
        match self.ask(rtm::GETNEIGH, &message, 0) {
            Ok(answers) => Ok(answers.first().map(|found: &NeighbourMessage| FdbEntry {
                link: found.header.ifindex,
                is_own: found.header.state == NeighbourState::Permanent,
            })),
            Err(failure) if failure.is(Errno::NOENT) || failure.is(Errno::OPNOTSUPP) => Ok(None),
            Err(failure) => Err(failure.during(self, Operation::FindNeighbour { link: bridge.into(), mac })),
        }
    }
}
