//! `vxlan`: one VXLAN device, and for each other node one forwarding entry, and for each of its subnets a neighbour and a route. Nothing
//! is broadcast and nothing is learnt.
//!
//! The next hop of a subnet is the subnet's first address, which the node has on its device, as flannel has it. No node tells the others the
//! Ethernet address of its device: it follows from the node's address.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use cni_net::{
    AddressOptions, Link, LinkChange, LinkSpec, Neighbour, NetError, Netlink, VxLan, VxlanFdbEntry, mac_of, sysctl,
};
use cni_plugin::{Family, IfName, MacAddr};
use ipnetwork::IpNetwork;

use super::routes::{self, Hop};
use super::{Backend, Done};
use crate::network::Values;
use crate::settings::{Vxlan, underlay_of};
use crate::view::{Held, View};

/// The MTU of a device whose underlay says nothing.
const MTU: u32 = 1450;

/// The device and its entries.
#[derive(Debug)]
pub struct Routed {
    name: String,
    settings: Vxlan,
    netlink: Netlink,
    mtu: Option<u32>,
}

/// What there should be on the device.
#[derive(Debug, Default)]
struct Wanted {
    entries: BTreeSet<VxlanFdbEntry>,
    neighbours: BTreeSet<Neighbour>,
    routes: HashMap<IpNetwork, IpAddr>,
}

/// The Ethernet address of the device of the node with this address.
fn mac(address: IpAddr) -> MacAddr {
    mac_of(&["cni-noded", &address.to_string()])
}

/// The address of a node's device for a subnet.
fn first(subnet: IpNetwork) -> IpAddr {
    subnet.network()
}

impl Routed {
    /// For the device with this number.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(settings: Vxlan) -> Result<Self, NetError> {
        Ok(Self { name: format!("cni-vx{}", settings.vni), settings, netlink: Netlink::open()?, mtu: None })
    }

    fn device(&self) -> Result<Option<Link>, NetError> {
        self.netlink.link_by_name(&self.name)
    }

    /// What the device should be, and its MTU.
    fn shape(&self, netlink: &Netlink, local: IpAddr) -> Result<(VxLan, u32), String> {
        let below = self.below(netlink, local)?;
        let Vxlan { vni, port, .. } = self.settings;
        let link = below.as_ref().map(|link| link.index);
        let fits = below.map_or(MTU, |link| link.mtu.saturating_sub(VxLan::overhead(local.is_ipv6())));
        match self.settings.mtu {
            Some(mtu) if mtu > fits => {
                Err(format!("backend.vxlan.mtu: {mtu} is too large: {fits} is what fits the link with {local}"))
            }
            mtu => Ok((VxLan { vni, port, link, local: Some(local), learning: false }, mtu.unwrap_or(fits))),
        }
    }

    /// Makes the device, or makes it what it should be. One that can't be changed is made anew.
    fn settle_device(
        &mut self,
        netlink: &Netlink,
        view: &View,
        local: IpAddr,
        done: &mut Done,
    ) -> Result<Link, String> {
        let text = |error: NetError| error.to_string();
        let (kind, mtu) = self.shape(netlink, local)?;
        self.mtu = Some(mtu);
        let present = match self.device().map_err(text)? {
            Some(link) if link.vxlan.is_none() => {
                return Err(format!("{} is there, and is no VXLAN device", self.name));
            }
            Some(link) if link.vxlan != Some(kind) || link.mac != Some(mac(local)) => {
                netlink.delete_link(link.index).map_err(text)?;
                done.changes += 1;
                None
            }
            present => present,
        };
        let link = match present {
            Some(link) => link,
            None => self.make(netlink, &kind, mtu, local, done)?,
        };
        let up = (!link.up).then_some(true);
        let change = LinkChange { up, mtu: (link.mtu != mtu).then_some(mtu), ..LinkChange::default() };
        if change != LinkChange::default() {
            netlink.change_link(link.index, &change).map_err(text)?;
        }
        self.settle_addresses(netlink, link.index, view).map_err(text)?;
        Ok(link)
    }

    /// Makes the device; it is down.
    fn make(&self, netlink: &Netlink, kind: &VxLan, mtu: u32, local: IpAddr, done: &mut Done) -> Result<Link, String> {
        let name: IfName = self.name.parse().map_err(|error| format!("{error}"))?;
        let spec = LinkSpec { mtu: Some(mtu), mac: Some(mac(local)), ..LinkSpec::new(name, kind) };
        let made = netlink.create_link(&spec).map_err(|error| error.to_string())?;
        done.changes += 1;
        // Before it is up. In a container with a read-only /proc/sys this can't be written; then only peers could announce anything.
        let _ = sysctl::ensure(&format!("net/ipv6/conf/{}/accept_ra", self.name), "0");
        Ok(made)
    }

    /// The link that packets leave by; none if the address is on `lo`, and routing decides.
    fn below(&self, netlink: &Netlink, local: IpAddr) -> Result<Option<Link>, String> {
        let index = netlink.link_of_address(local).map_err(|error| error.to_string())?;
        let Some(index) = index else {
            return Err(format!("{local}, which is this node's address, is not on any of its links"));
        };
        let link = netlink.link_by_index(index).map_err(|error| error.to_string())?;
        Ok(link.filter(|link| !link.loopback))
    }

    /// The device has the first address of each of the node's subnets: what the node itself sends to containers of others has it as its
    /// source, so that the answers come back the same way.
    fn settle_addresses(&self, netlink: &Netlink, index: u32, view: &View) -> Result<(), NetError> {
        let wanted: Vec<IpNetwork> = view.own.subnets.iter().map(|subnet| first(*subnet).into()).collect();
        let present = netlink.addresses(index)?;
        for stale in present.iter().filter(|found| !wanted.contains(&found.network) && !is_link_local(found.network)) {
            netlink.delete_address(index, stale.network)?;
        }
        for address in wanted.iter().filter(|address| !present.iter().any(|found| found.network == **address)) {
            netlink.add_address(index, *address, &AddressOptions { no_dad: true, ..AddressOptions::default() })?;
        }
        Ok(())
    }

    fn wanted(view: &View, family: Family, done: &mut Done) -> Wanted {
        let mut wanted = Wanted::default();
        for node in view.others.iter().filter(|node| !node.subnets.is_empty()) {
            let Some(address) = node.address(family) else {
                done.problems.push(format!("node {} has no {family} address, as the underlay needs it", node.name));
                continue;
            };
            wanted.entries.insert(VxlanFdbEntry::new(mac(address), address));
            for subnet in &node.subnets {
                wanted.neighbours.insert(Neighbour { address: first(*subnet), mac: mac(address) });
                wanted.routes.insert(*subnet, first(*subnet));
            }
        }
        wanted
    }

    fn settle(&self, netlink: &Netlink, link: u32, wanted: &Wanted, done: &mut Done) -> Result<(), NetError> {
        let entries: BTreeSet<_> = netlink.fdb_entries(link)?.into_iter().collect();
        let mut neighbours: BTreeSet<_> = netlink.neighbours(link, Family::V4)?.into_iter().collect();
        neighbours.extend(netlink.neighbours(link, Family::V6)?);
        for entry in wanted.entries.difference(&entries) {
            done.count(netlink.add_fdb_entry(link, entry));
        }
        for neighbour in wanted.neighbours.difference(&neighbours) {
            done.count(netlink.set_neighbour(link, neighbour));
        }
        let hops = wanted
            .routes
            .iter()
            .map(|(subnet, gateway)| (*subnet, Hop { gateway: *gateway, link, onlink: true }))
            .collect();
        let present = routes::list(netlink, self.settings.protocol, Some(link))?;
        routes::settle(netlink, self.settings.protocol, &present, &hops, done);
        for neighbour in neighbours.difference(&wanted.neighbours) {
            // One with another Ethernet address was replaced above.
            if !wanted.neighbours.iter().any(|other| other.address == neighbour.address) {
                done.count(netlink.delete_neighbour(link, neighbour.address));
            }
        }
        for entry in entries.difference(&wanted.entries) {
            done.count(netlink.delete_fdb_entry(link, entry));
        }
        done.entries += wanted.entries.len() + wanted.neighbours.len();
        Ok(())
    }
}

fn is_link_local(address: IpNetwork) -> bool {
    matches!(address.ip(), IpAddr::V6(v6) if v6.is_unicast_link_local())
}

impl Backend for Routed {
    fn held(&mut self) -> Result<Held, NetError> {
        let Some(link) = self.device()? else { return Ok(Held::new()) };
        let entries: HashMap<MacAddr, IpAddr> =
            self.netlink.fdb_entries(link.index)?.into_iter().map(|entry| (entry.mac, entry.to)).collect();
        let mut neighbours = self.netlink.neighbours(link.index, Family::V4)?;
        neighbours.extend(self.netlink.neighbours(link.index, Family::V6)?);
        let nodes: HashMap<IpAddr, IpAddr> =
            neighbours.iter().filter_map(|found| Some((found.address, *entries.get(&found.mac)?))).collect();
        let routes = routes::list(&self.netlink, self.settings.protocol, Some(link.index))?;
        Ok(routes.iter().filter_map(|route| Some((route.dst, *nodes.get(&route.gateway?)?))).collect())
    }

    fn apply(&mut self, netlink: &Netlink, view: &View) -> Done {
        let mut done = Done::default();
        let family = underlay_of(self.settings.underlay, &view.own.addresses);
        let Some((family, local)) = family.and_then(|family| Some((family, view.own.address(family)?))) else {
            done.problems.push(format!("this node, {}, has no address for the underlay", view.own.name));
            return done;
        };
        let wanted = Self::wanted(view, family, &mut done);
        match self.settle_device(netlink, view, local, &mut done) {
            Ok(link) => {
                if let Err(error) = self.settle(netlink, link.index, &wanted, &mut done) {
                    done.problems.push(error.to_string());
                }
            }
            Err(why) => done.problems.push(why),
        }
        done
    }

    fn values(&self, view: &View) -> Option<Values> {
        Some(Values { parts: view.own.subnets.clone(), whole: Vec::new(), mtu: Some(self.mtu?) })
    }
}
