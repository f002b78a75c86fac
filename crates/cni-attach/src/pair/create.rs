//! Creating a pair.

use std::rc::Rc;

use cni_net::{LinkChange, NetError, Netlink, VethEnd, VethIndexes, VethSpec, random_mac, sysctl};
use cni_plugin::{Attachment, IfName, Interface, MacAddr, Owner, Request, Undo};

use super::{PairError, host_names};
use crate::print::Place;
use crate::sides::Sides;
use crate::{mark, result};

/// The pair that should exist.
#[derive(Debug, Clone)]
pub struct PairSpec<'a> {
    /// Whose it is.
    pub owner: &'a Owner,
    /// The names to try for the host's end, in this order; if there are none, those of [`host_names`].
    pub names: &'a [IfName],
    /// Of both ends, in bytes; the kernel's choice if none.
    pub mtu: Option<u32>,
    /// The container's hardware address; random if none.
    pub mac: Option<MacAddr>,
    /// The bridge that the host's end becomes a port of.
    pub master: Option<u32>,
}

impl<'a> PairSpec<'a> {
    /// The owner's pair, with the default names and the kernel's choice of MTU.
    pub fn of(owner: &'a Owner) -> Self {
        Self { owner, names: &[], mtu: None, mac: None, master: None }
    }
}

impl PairSpec<'_> {
    /// What [`create`] does, as commands, the host's end being a port of the link `master` if there is one. The MAC addresses
    /// that it chooses are left out.
    pub fn commands(&self, master: Option<&str>) -> Vec<String> {
        let Some(first) = host_names(self.owner).next() else { return Vec::new() };
        let (mtu, ifname) = (self.mtu.map_or_else(String::new, |mtu| format!(" mtu {mtu}")), &self.owner.ifname);
        let master = master.map_or_else(String::new, |master| format!(" master {master}"));
        let mac = self.mac.map_or_else(String::new, |mac| format!(" address {mac}"));
        let name = self.names.first().unwrap_or(&first);
        let peer = format!("peer name {ifname}{mac}{mtu} netns CONTAINER");
        let mut commands = vec![Place::Node.ip(&format!("link add {name}{mtu}{master} up type veth {peer}"))];
        commands.extend(mark::commands(Place::Node, name, self.owner));
        commands.push(Place::Node.sysctl(&format!("net/ipv6/conf/{name}/accept_ra"), "0"));
        commands
    }
}

/// The pair as it was made.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The host's end.
    pub host_name: IfName,
    /// Its index.
    pub host_index: u32,
    /// Its hardware address.
    pub host_mac: MacAddr,
    /// The container's end, in its namespace.
    pub container_index: u32,
    /// Its hardware address.
    pub container_mac: MacAddr,
    /// The MTU of both ends, in bytes.
    pub mtu: u32,
}

impl Pair {
    /// Both ends for the result, the container's second.
    pub fn interfaces<C>(&self, request: &Request<C>, attachment: &Attachment) -> [Interface; 2] {
        let (ifname, netns) = (&attachment.owner.ifname, attachment.netns.as_path());
        [
            result::interface(request, self.host_name.as_str(), self.host_mac, self.mtu, None),
            result::interface(request, ifname.as_str(), self.container_mac, self.mtu, Some(netns)),
        ]
    }
}

/// Creates the pair, the host's end up, and writes the owner on it. Pushes its deletion to `undo`. Not idempotent.
///
/// Both MAC addresses are given: udev would replace those that the kernel chose. The host's end is created with a name that
/// is derived from the owner, also if it gets another one, so that it is found even if this process is killed at once.
///
/// # Errors
/// [`PairError`].
pub fn create(sides: &Sides, spec: &PairSpec<'_>, undo: &mut Undo) -> Result<Pair, PairError> {
    let (socket, owner) = (&sides.host, spec.owner);
    let end = |mac: MacAddr| VethEnd { name: owner.ifname.clone(), mtu: spec.mtu, mac: Some(mac) };
    let container_mac = spec.mac.map_or_else(random_mac, Ok)?;
    let mut veth = VethSpec::new(end(random_mac()?), end(container_mac), &sides.container.namespace);
    veth.master = spec.master;
    // A link that is up can't get another name before Linux 6.2.
    veth.host_up = spec.names.is_empty();
    let indexes = create_with_free_name(socket, &mut veth, owner)?;
    let (taken_back, index) = (Rc::clone(socket), indexes.host);
    undo.push(format!("link {}", veth.host.name), move || taken_back.delete_link(index).map(drop));

    mark::write(socket, index, owner)?;
    // The node must not take addresses and routes from a container (CVE-2020-10749). The container's end is down until
    // later, so nothing has arrived yet; and without IPv6 there is no such setting.
    let _ = sysctl::write(&format!("net/ipv6/conf/{}/accept_ra", veth.host.name), "0");
    let host_name = if spec.names.is_empty() { veth.host.name } else { rename_and_raise(socket, index, spec.names)? };
    Ok(Pair {
        host_name,
        host_index: index,
        host_mac: indexes.host_mac,
        container_index: indexes.peer,
        container_mac,
        mtu: indexes.mtu,
    })
}

fn create_with_free_name(socket: &Netlink, veth: &mut VethSpec<'_>, owner: &Owner) -> Result<VethIndexes, PairError> {
    for name in host_names(owner) {
        veth.host.name = name;
        match socket.create_veth(veth) {
            Err(NetError::Exists { name, .. }) if name == veth.host.name.as_str() => {}
            other => return Ok(other?),
        }
    }
    Err(PairError::NoName(Box::new(owner.clone())))
}

/// Gives the link the first of `names` that no other link has. Its sysctls keep their values.
fn rename_and_raise(socket: &Netlink, index: u32, names: &[IfName]) -> Result<IfName, PairError> {
    for name in names {
        let change = LinkChange { name: Some(name.clone()), up: Some(true), ..LinkChange::default() };
        match socket.change_link(index, &change) {
            Err(NetError::Exists { .. }) => {}
            other => return Ok(other.map(|()| name.clone())?),
        }
    }
    let first = names.first().map(|name| socket.link_by_name(name.as_str())).transpose()?.flatten();
    let words = first.map(|link| link.alias.or(link.kind).unwrap_or(link.name)).unwrap_or_default();
    Err(PairError::NamesTaken { names: names.to_vec(), holder: words })
}
