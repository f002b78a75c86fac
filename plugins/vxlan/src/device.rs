//! The VXLAN device: made with the first attachment that needs it and deleted with the last.
//!
//! Each attachment marks it with an alternative name of its own, by which DEL finds it in constant time. The kernel limits a link's
//! alternative names to 64 KiB, which is room for some 490 attachments (`rtnl_alt_ifname` in net/core/rtnetlink.c). An ADD that is
//! killed before it could write its mark leaves a device whose Ethernet address tells the network.
//!
//! Changes are made while [`Turn::Vxlan`](cni_plugin::Turn) is held.

use std::collections::HashSet;
use std::net::IpAddr;

use cni_attach::{mark as marks, vxlan_device};
use cni_net::{Link, LinkChange, LinkSpec, NetError, Netlink, Vlan, VxLan, random_mac, sysctl};
use cni_plugin::{CniError, Difference, IfName, MacAddr, NetworkName, Owner, Undo, sha512_hex};

use crate::ends::Ends;
use crate::plan::Plan;

/// The first byte of a device's Ethernet address. A bridge without an address of its own takes the lowest one of its ports, which is
/// never this one.
const HIGHEST: u8 = 0xfe;

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The kernel refused.
    #[error(transparent)]
    Net(#[from] NetError),
    /// No random numbers.
    #[error("cannot choose a MAC address: {0}")]
    Random(#[from] std::io::Error),
    /// Another program's.
    #[error("vni: {name} exists already and was not made by this plugin: delete it, or choose another vni")]
    Foreign {
        /// The device.
        name: String,
    },
    /// Another program's, under another name.
    #[error("vni: {vni} with port {port} is in use by {holder}: delete that device, or choose another vni")]
    Taken {
        /// As configured.
        vni: u32,
        /// As configured.
        port: u16,
        /// The device.
        holder: String,
    },
    /// The kernel has no room for another mark.
    #[error(
        "{name} has no room for another container: the kernel limits a link's alternative names to some 490, one for each \
         container; use a further network, with a vni of its own"
    )]
    Full {
        /// The device.
        name: String,
    },
    /// Made for a configuration that contradicts this one.
    #[error(
        "vni: {vni} is in use on this node with other settings ({difference}): choose another vni, or detach the containers that use it"
    )]
    Other {
        /// As configured.
        vni: u32,
        /// The first thing that differs.
        difference: Difference,
    },
}

/// True if this owner uses the device.
pub fn is_marked_by(link: &Link, owner: &Owner) -> bool {
    link.altnames.contains(&mark(&owner.key()))
}

/// True if the device was made for this network.
fn is_of(link: &Link, network: &NetworkName) -> bool {
    link.vxlan.is_some() && link.mac.is_some_and(|mac| mac.0.starts_with(&tag(network)))
}

fn mark(owner_key: &str) -> String {
    format!("{}{owner_key}", vxlan_device::MARK)
}

/// What the Ethernet addresses of a network's devices begin with.
fn tag(network: &NetworkName) -> [u8; 4] {
    let digits = sha512_hex(&[network.as_str()], 6);
    let byte = |n: usize| u8::from_str_radix(digits.get(2 * n..2 * n + 2).unwrap_or_default(), 16).unwrap_or_default();
    [HIGHEST, byte(0), byte(1), byte(2)]
}

/// The device of the plan, as a port of the bridge, marked as used by this owner; made, down, if there is none. Idempotent. Pushes
/// the mark's removal to `undo`.
///
/// # Errors
/// [`DeviceError`].
pub fn ensure(ends: &Ends, plan: &Plan, owner: &Owner, undo: &mut Undo) -> Result<Link, CniError> {
    let node = &ends.node;
    let found = node.link_by_name(plan.name.as_str())?;
    if let Some(link) = &found {
        refuse_other(node, link, plan, &ends.bridge, &owner.network)?;
    }
    let (of, vni) = (owner.clone(), plan.kind.vni);
    undo.push(format!("the use of {}", plan.name), move || {
        let _turn = vxlan_device::turn()?;
        // This ADD's socket may be what has failed.
        release(&Netlink::open()?, &of, Some(vni))
    });
    let link = match found {
        Some(link) => link,
        None => make(node, plan, &owner.network)?,
    };
    set_mark(node, &link, &owner.key())?;
    if !vxlan_device::is_marked(&link) {
        // A device that was deleted by hand, or with the link below, has other users already: those whose MTU was made to fit.
        for port in node.links_with_master(ends.bridge.index)?.iter().filter(|port| port.mtu <= plan.mtu) {
            if let Some(key) = marks::owner_key(port, &owner.network) {
                set_mark(node, &link, key)?;
            }
        }
    }
    let master = (link.master != Some(ends.bridge.index)).then_some(Some(ends.bridge.index));
    let mtu = (link.mtu != plan.mtu).then_some(plan.mtu);
    if master.is_some() || mtu.is_some() {
        node.change_link(link.index, &LinkChange { master, mtu, ..LinkChange::default() })?;
    }
    join_vlans(ends, link.index, vni, master.is_some())?;
    Ok(link)
}

/// Puts the device's port into the VLANs of the container's port, where the bridge filters them, and a new port into no others: frames
/// of the bridge's default VLAN must not get into another one on the other hosts.
fn join_vlans(ends: &Ends, device: u32, vni: u32, is_new: bool) -> Result<(), DeviceError> {
    let Some(Vlans { present, wanted }) = Vlans::of(ends, device)? else { return Ok(()) };
    let untagged = |vlans: &[Vlan]| vlans.iter().find(|vlan| vlan.pvid).map(|vlan| vlan.id);
    let text = |vlan: Option<u16>| vlan.map_or_else(|| "none".to_owned(), |id| id.to_string());
    if !is_new && untagged(&present) != untagged(&wanted) {
        let thing = format!("VLAN of packets without a tag on {}", ends.bridge.name);
        let difference = Difference::new(thing, text(untagged(&wanted)), text(untagged(&present)));
        return Err(DeviceError::Other { vni, difference });
    }
    for vlan in present.iter().filter(|vlan| is_new && !wanted.iter().any(|wanted| wanted.id == vlan.id)) {
        ends.node.delete_port_vlan(device, vlan.id)?;
    }
    for vlan in wanted.into_iter().filter(|vlan| !present.contains(vlan)) {
        ends.node.add_port_vlan(device, vlan)?;
    }
    Ok(())
}

/// The VLANs of the device's port and of the container's.
struct Vlans {
    present: Vec<Vlan>,
    wanted: Vec<Vlan>,
}

impl Vlans {
    /// `None` where the bridge filters none.
    fn of(ends: &Ends, device: u32) -> Result<Option<Self>, NetError> {
        if !ends.bridge.bridge.as_ref().is_some_and(|bridge| bridge.vlan_filtering) {
            return Ok(None);
        }
        Ok(Some(Self { present: ends.node.port_vlans(device)?, wanted: ends.node.port_vlans(ends.port.index)? }))
    }
}

fn set_mark(node: &Netlink, device: &Link, owner_key: &str) -> Result<(), DeviceError> {
    match node.add_altname(device.index, &mark(owner_key)) {
        Ok(()) | Err(NetError::Exists { .. }) => Ok(()),
        // `rtnl_alt_ifname` in net/core/rtnetlink.c.
        Err(NetError::Refused { reason, .. })
            if reason.text.as_deref().is_some_and(|text| text.contains("too long")) =>
        {
            Err(DeviceError::Full { name: device.name.clone() })
        }
        Err(error) => Err(error.into()),
    }
}

fn make(node: &Netlink, plan: &Plan, network: &NetworkName) -> Result<Link, DeviceError> {
    let [.., last, but_one] = random_mac()?.0;
    let [first, second, third, fourth] = tag(network);
    let mac = MacAddr([first, second, third, fourth, last, but_one]);
    match node.create_link(&LinkSpec {
        mac: Some(mac),
        mtu: Some(plan.mtu),
        ..LinkSpec::new(plan.name.clone(), &plan.kind)
    }) {
        // The name was free: the kernel has one device for a number and a port.
        Err(NetError::Exists { .. }) => {
            let VxLan { vni, port, .. } = plan.kind;
            let is_holder = |link: &Link| link.vxlan.is_some_and(|kind| (kind.vni, kind.port) == (vni, port));
            let holder =
                node.links()?.into_iter().find(is_holder).map_or_else(|| "another device".to_owned(), |link| link.name);
            Err(DeviceError::Taken { vni, port, holder })
        }
        Ok(made) => {
            // Out of the bridge, and up, it would take routes from any host of the network. Fails where there is no IPv6.
            let _ = sysctl::write(&accept_ra(&plan.name), "0");
            Ok(made)
        }
        Err(error) => Err(error.into()),
    }
}

/// The setting by which a device would take addresses and routes from router advertisements.
pub fn accept_ra(device: &IfName) -> String {
    format!("net/ipv6/conf/{device}/accept_ra")
}

fn refuse_other(
    node: &Netlink,
    link: &Link,
    plan: &Plan,
    bridge: &Link,
    network: &NetworkName,
) -> Result<(), DeviceError> {
    if !vxlan_device::is_marked(link) && !is_of(link, network) {
        return Err(DeviceError::Foreign { name: link.name.clone() });
    }
    let mut differences = compare(node, link, plan)?;
    if let Some(master) = link.master.filter(|master| *master != bridge.index) {
        let found = node.link_by_index(master)?.map_or_else(|| master.to_string(), |master| master.name);
        differences.push(Difference::new(format!("bridge of {}", link.name), &bridge.name, found));
    }
    let vni = plan.kind.vni;
    differences.into_iter().next().map_or(Ok(()), |difference| Err(DeviceError::Other { vni, difference }))
}

/// In what the kernel can't change a device differs from the plan: number, port and underlay.
///
/// # Errors
/// The kernel's.
pub fn compare(node: &Netlink, link: &Link, plan: &Plan) -> Result<Vec<Difference>, NetError> {
    let (wanted, name) = (&plan.kind, &link.name);
    let Some(found) = &link.vxlan else {
        return Ok(vec![Difference::new(
            format!("kind of {name}"),
            "vxlan",
            link.kind.as_deref().unwrap_or("physical"),
        )]);
    };
    let mut differences = Vec::new();
    if found.vni != wanted.vni {
        differences.push(Difference::new(format!("vni of {name}"), wanted.vni, found.vni));
    }
    if found.port != wanted.port {
        differences.push(Difference::new(format!("port of {name}"), wanted.port, found.port));
    }
    if found.link != wanted.link {
        let name_of = |index: Option<u32>| -> Result<String, NetError> {
            let Some(index) = index else { return Ok("none".to_owned()) };
            Ok(node.link_by_index(index)?.map_or_else(|| format!("link {index}, which is gone"), |link| link.name))
        };
        differences.push(Difference::new(format!("dev of {name}"), name_of(wanted.link)?, name_of(found.link)?));
    }
    if found.local != wanted.local {
        let text = |address: Option<IpAddr>| address.map_or_else(|| "none".to_owned(), |address| address.to_string());
        differences.push(Difference::new(format!("local address of {name}"), text(wanted.local), text(found.local)));
    }
    Ok(differences)
}

/// The VLANs of the container's port that the device's port lacks, where the bridge filters them.
///
/// # Errors
/// The kernel's.
pub fn missing_vlans(ends: &Ends, device: u32) -> Result<Vec<Vlan>, NetError> {
    let Some(Vlans { present, wanted }) = Vlans::of(ends, device)? else { return Ok(Vec::new()) };
    Ok(wanted.into_iter().filter(|vlan| !present.contains(vlan)).collect())
}

/// Removes this owner's mark and, if it was the last one, the device and what follows from it. Idempotent. Where no device has the
/// mark, one with the number `vni` that was made for the network and has none at all goes, as a killed ADD leaves it.
///
/// # Errors
/// The kernel's.
pub fn release(node: &Netlink, owner: &Owner, vni: Option<u32>) -> Result<(), CniError> {
    let own = mark(&owner.key());
    if let Some(link) = node.link_by_altname(&own)? {
        return if unmark(node, &link, &[own])? { vxlan_device::refresh_guard(node) } else { Ok(()) };
    }
    let left: Vec<Link> = match vni.map(vxlan_device::name).transpose()? {
        Some(name) => node.link_by_name(name.as_str())?.into_iter().collect(),
        None => node.links()?,
    };
    for link in left.iter().filter(|link| is_of(link, &owner.network) && !vxlan_device::is_marked(link)) {
        node.delete_link(link.index)?;
    }
    // A DEL may have been killed after it had deleted the device.
    vxlan_device::refresh_guard(node)
}

/// As [`release`], for all owners of the network that are not in `valid`. Lists all links.
///
/// # Errors
/// The kernel's.
pub fn retain(node: &Netlink, network: &NetworkName, valid: &[Owner]) -> Result<(), CniError> {
    let of_network = mark(&Owner::network_key(network));
    let keep: HashSet<String> = valid.iter().map(|owner| mark(&owner.key())).collect();
    for link in node.links()? {
        let is_stale = |name: &&String| name.starts_with(&of_network) && !keep.contains(*name);
        let stale: Vec<String> = link.altnames.iter().filter(is_stale).cloned().collect();
        if !stale.is_empty() || is_of(&link, network) {
            unmark(node, &link, &stale)?;
        }
    }
    vxlan_device::refresh_guard(node)
}

/// True if that were the last ones, and the device is gone.
fn unmark(node: &Netlink, link: &Link, marks: &[String]) -> Result<bool, NetError> {
    for mark in marks {
        node.delete_altname(link.index, mark)?;
    }
    let is_unused =
        node.link_by_index(link.index)?.is_some_and(|link| link.vxlan.is_some() && !vxlan_device::is_marked(&link));
    if is_unused { node.delete_link(link.index) } else { Ok(false) }
}

/// Fails if the device could not be made because of one that is there.
///
/// # Errors
/// [`DeviceError`].
pub fn probe(node: &Netlink, plan: &Plan, network: &NetworkName) -> Result<(), DeviceError> {
    let Some(link) = node.link_by_name(plan.name.as_str())? else {
        let probe: IfName = plan.name.clone();
        // Of a link that does not exist: the kernel looks for the kind first.
        return Ok(node.probe_kind(&probe, &VxLan { link: Some(0), ..plan.kind })?);
    };
    if !vxlan_device::is_marked(&link) && !is_of(&link, network) {
        return Err(DeviceError::Foreign { name: link.name });
    }
    let vni = plan.kind.vni;
    compare(node, &link, plan)?
        .into_iter()
        .next()
        .map_or(Ok(()), |difference| Err(DeviceError::Other { vni, difference }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_never_takes_a_devices_address() {
        let tag = tag(&"net".parse().unwrap());
        // Unicast, locally administered.
        assert_eq!((tag[0], tag[0] & 3), (0xfe, 2));
    }
}
