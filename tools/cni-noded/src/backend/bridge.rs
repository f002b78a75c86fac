//! `bridge`: the file of the peers of the plugin `vxlan`, and what the plugin's device has of it, so that a change needs no ADD.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cni_attach::vxlan_device;
use cni_net::{NetError, Netlink, VxlanFdbEntry};
use cni_plugin::state::{self, StateDir};
use cni_plugin::{CniError, Family, IfName};
use ipnetwork::IpNetwork;

use super::{Backend, Done};
use crate::network::Values;
use crate::settings::{Bridge, underlay_of};
use crate::view::{Held, View};

/// The longest file.
const MAX: u64 = 1 << 20;
const MODE: u32 = 0o644;

/// The file of the peers.
#[derive(Debug)]
pub struct Peers {
    path: PathBuf,
    whole: Vec<IpNetwork>,
    underlay: Option<Family>,
    device: Option<IfName>,
    /// The packet filter does not have what follows from the entries: until it does, each round tries again.
    guard_is_due: bool,
}

impl Peers {
    /// As configured.
    pub fn new(bridge: &Bridge) -> Self {
        let Bridge { peers, subnets, underlay, vni } = bridge;
        let device = vni.and_then(|vni| vxlan_device::name(vni).ok());
        Self { path: peers.clone(), whole: subnets.clone(), underlay: *underlay, device, guard_is_due: false }
    }

    /// Writes the file unless it says so already; true if it was written.
    fn write(&self, content: &str) -> std::io::Result<bool> {
        if state::read_config(&self.path, MAX).is_ok_and(|present| present == content.as_bytes()) {
            return Ok(false);
        }
        let (Some(directory), Some(name)) = (self.path.parent(), self.path.file_name().and_then(|name| name.to_str()))
        else {
            return Err(std::io::ErrorKind::InvalidInput.into());
        };
        StateDir::make(directory, 0o755)?;
        let directory = StateDir::open(directory, true)?.ok_or(std::io::ErrorKind::NotFound)?;
        directory.replace_with_mode(name, content.as_bytes(), MODE)?;
        Ok(true)
    }

    /// Makes the forwarding entries of the plugin's device, if it is there, those of the peers, and the packet filter what follows from
    /// them. The plugin changes the same things.
    fn settle(&mut self, netlink: &Netlink, peers: &[IpAddr]) -> Result<bool, CniError> {
        let Some(name) = &self.device else { return Ok(false) };
        let Some(link) = netlink.link_by_name(name.as_str())?.filter(vxlan_device::is_marked) else { return Ok(false) };
        let _turn = vxlan_device::turn()?;
        let wanted: Vec<VxlanFdbEntry> = peers.iter().map(|peer| VxlanFdbEntry::flood(*peer)).collect();
        let is_changed = vxlan_device::set_entries(netlink, link.index, &wanted)?;
        self.guard_is_due |= is_changed;
        if self.guard_is_due {
            vxlan_device::refresh_guard(netlink)?;
            self.guard_is_due = false;
        }
        Ok(is_changed)
    }
}

/// The file's lines, sorted by address: a line a node.
fn lines(peers: &BTreeMap<IpAddr, Vec<IpNetwork>>) -> String {
    let mut text = String::from("# Written by cni-noded.\n");
    for (address, subnets) in peers {
        text.push_str(&address.to_string());
        for subnet in subnets {
            text.push_str(&format!(" {subnet}"));
        }
        text.push('\n');
    }
    text
}

/// Where subnets lead to by such a file.
fn held(path: &Path) -> Held {
    let content = state::read_config(path, MAX).unwrap_or_default();
    let mut held = Held::new();
    for line in String::from_utf8_lossy(&content).lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
        held.extend(words.filter_map(|word| Some((word.parse::<IpNetwork>().ok()?, address))));
    }
    held
}

impl Backend for Peers {
    fn held(&mut self) -> Result<Held, NetError> {
        Ok(held(&self.path))
    }

    fn apply(&mut self, netlink: &Netlink, view: &View) -> Done {
        let mut done = Done::default();
        let Some(family) = underlay_of(self.underlay, &view.own.addresses) else {
            done.problems.push(format!("this node, {}, has no address for the underlay", view.own.name));
            return done;
        };
        let mut peers: BTreeMap<IpAddr, Vec<IpNetwork>> = BTreeMap::new();
        for node in std::iter::once(&view.own).chain(&view.others) {
            match node.address(family) {
                Some(address) => peers.entry(address).or_default().extend(&node.subnets),
                None => {
                    done.problems.push(format!("node {} has no {family} address, as the underlay needs it", node.name));
                }
            }
        }
        match self.write(&lines(&peers)) {
            Ok(is_new) => done.changes += usize::from(is_new),
            Err(error) => done.problems.push(format!("cannot write {}: {error}", self.path.display())),
        }
        let others: Vec<IpAddr> =
            peers.keys().copied().filter(|address| !view.own.addresses.contains(address)).collect();
        match self.settle(netlink, &others) {
            Ok(is_changed) => done.changes += usize::from(is_changed),
            Err(error) => done.problems.push(error.to_string()),
        }
        done.entries = others.len();
        done
    }

    fn values(&self, view: &View) -> Option<Values> {
        Some(Values { parts: view.own.subnets.clone(), whole: self.whole.clone(), mtu: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_who_has_what() {
        let peers = BTreeMap::from([
            ("192.0.2.2".parse().unwrap(), vec!["10.42.2.0/24".parse().unwrap(), "fd00:42:0:2::/64".parse().unwrap()]),
            ("192.0.2.1".parse().unwrap(), vec!["10.42.1.0/24".parse().unwrap()]),
        ]);
        let text = lines(&peers);
        assert_eq!(text, "# Written by cni-noded.\n192.0.2.1 10.42.1.0/24\n192.0.2.2 10.42.2.0/24 fd00:42:0:2::/64\n");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        assert_eq!(held(file.path()).len(), 3);
        assert_eq!(held(file.path())[&"10.42.1.0/24".parse().unwrap()].to_string(), "192.0.2.1");
    }
}
