//! The devices of the plugin `vxlan`, as far as another program of the node changes them too: how they are found, their forwarding entries,
//! and who may send packets to them.
//!
//! Changes are made while [`Turn::Vxlan`] is held ([`turn`]).

use std::collections::HashSet;
use std::net::IpAddr;

use cni_net::{Link, NetError, Netlink, VxlanFdbEntry};
use cni_netfilter::{Netfilter, VxlanPeers};
use cni_plugin::{CniError, IfName, Lock, LockError, MacAddr, NameError, Turn};

/// What the marks of all attachments begin with.
pub const MARK: &str = "cni-vxlan-";

/// The device's name: one VNI is one device of the node.
///
/// # Errors
/// None: a VNI has eight digits at most.
pub fn name(vni: u32) -> Result<IfName, NameError> {
    format!("vxlan{vni}").parse()
}

/// The turn at the node's devices, if there can be one.
pub fn turn() -> Result<Option<Lock>, LockError> {
    Lock::if_possible(Lock::of_turn(Turn::Vxlan))
}

/// True if an attachment uses the device.
pub fn is_marked(link: &Link) -> bool {
    link.vxlan.is_some() && link.altnames.iter().any(|name| name.starts_with(MARK))
}

/// What of the forwarding entries is to be changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EntryChanges {
    /// Entries that are missing.
    pub add: Vec<VxlanFdbEntry>,
    /// Configured entries that lead to hosts that are no peers, and what the device has learnt from such.
    pub delete: Vec<VxlanFdbEntry>,
}

impl EntryChanges {
    /// The difference between the entries that are wanted and those that are there.
    pub fn between(wanted: &[VxlanFdbEntry], found: &[VxlanFdbEntry]) -> Self {
        let peers: HashSet<IpAddr> = wanted.iter().map(|entry| entry.to).collect();
        let fixed: HashSet<MacAddr> = wanted.iter().map(|entry| entry.mac).collect();
        let (wanted_set, found_set): (HashSet<_>, HashSet<_>) = (wanted.iter().collect(), found.iter().collect());
        let is_wrong = |entry: &&VxlanFdbEntry| {
            // What was learnt from a peer stays, unless the file says where the address is.
            let may_stay = !entry.permanent && peers.contains(&entry.to) && !fixed.contains(&entry.mac);
            !wanted_set.contains(entry) && !may_stay
        };
        Self {
            add: wanted.iter().filter(|entry| !found_set.contains(entry)).copied().collect(),
            delete: found.iter().filter(is_wrong).copied().collect(),
        }
    }
}

/// Makes the device's forwarding entries these. True if something was changed.
///
/// # Errors
/// The kernel's.
pub fn set_entries(node: &Netlink, device: u32, wanted: &[VxlanFdbEntry]) -> Result<bool, NetError> {
    let EntryChanges { add, delete } = EntryChanges::between(wanted, &node.fdb_entries(device)?);
    for entry in &delete {
        node.delete_fdb_entry(device, entry)?;
    }
    for entry in &add {
        node.add_fdb_entry(device, entry)?;
    }
    Ok(!add.is_empty() || !delete.is_empty())
}

/// Makes the packet filter let in what the devices with marks flood to, on the port of each, and nothing else. That follows from the devices,
/// so that nothing has to be remembered. Idempotent. Lists all links: for changes of devices and of peers only.
///
/// # Errors
/// The kernel's.
pub fn refresh_guard(node: &Netlink) -> Result<(), CniError> {
    let devices: Vec<Link> = node.links()?.into_iter().filter(is_marked).collect();
    let wanted = devices.iter().map(|link| peers(node, link)).collect::<Result<Vec<_>, _>>()?;
    Ok(Netfilter::new().set_vxlan_peers(&wanted)?)
}

fn peers(node: &Netlink, device: &Link) -> Result<VxlanPeers, NetError> {
    let flooded = node.fdb_entries(device.index)?.into_iter().filter(|entry| entry.mac == VxlanFdbEntry::FLOOD);
    let peers: Vec<IpAddr> = flooded.map(|entry| entry.to).collect();
    Ok(VxlanPeers { port: device.vxlan.map_or(0, |kind| kind.port), peers })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(mac: u8, to: &str, permanent: bool) -> VxlanFdbEntry {
        VxlanFdbEntry { mac: MacAddr([0, 0, 0, 0, 0, mac]), to: to.parse().unwrap(), permanent }
    }

    #[test]
    fn what_was_learnt_from_a_peer_stays() {
        let wanted = [entry(0, "192.0.2.2", true), entry(7, "192.0.2.2", true)];
        let found = [
            entry(0, "192.0.2.2", true),
            entry(0, "192.0.2.9", true),
            entry(1, "192.0.2.2", false),
            entry(2, "192.0.2.9", false),
            entry(7, "192.0.2.2", false),
        ];
        let changes = EntryChanges::between(&wanted, &found);
        assert_eq!(changes.add, [wanted[1]]);
        assert_eq!(changes.delete, [found[1], found[3], found[4]]);
        assert_eq!(EntryChanges::between(&wanted, &wanted), EntryChanges::default());
    }
}
