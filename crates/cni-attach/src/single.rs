//! A single link in the container's namespace, without an end on the node: a macvlan, a VLAN, a dummy, a VRF, …
//!
//! The owner's mark is on the link itself. The kernel deletes it with the namespace, so DEL and GC have nothing to
//! remove where that is gone.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use cni_net::{Link, LinkChange, LinkKind, LinkSpec, NetError, NetNs, Netlink};
use cni_plugin::{
    Attachment, CniError, CniResult, Detachment, Difference, Dns, IfName, Ipam, IpamConfig, Lock, MacAddr, NetworkName,
    Owner, Request, Undo,
};

use crate::check::{LinkCheck, check_mac};
use crate::ipam::Addresses;
use crate::layer3::Layer3;
use crate::print::Place;
use crate::removal::Removal;
use crate::sides::{ContainerSide, Sides, SidesError};
use crate::{mark, mtu, result};

/// Creates the link in the container's namespace, down, and writes the owner on it. Indexes in `spec`, such as a parent's,
/// are of the namespace that `place` says. Pushes its deletion to `undo`. Not idempotent.
///
/// # Errors
/// [`NetError::Exists`] if the container has a link of this name; otherwise the kernel's.
pub fn create(
    sides: &Sides,
    owner: &Owner,
    spec: &LinkSpec<'_>,
    place: Place,
    undo: &mut Undo,
) -> Result<Link, NetError> {
    let inside = &sides.container.netlink;
    let is_anothers = push_undo(&sides.container, owner, undo);
    let made = match place {
        Place::Node => sides.host.create_link_in(spec, &sides.container.namespace, inside),
        Place::Container => inside.create_link(spec),
    };
    is_anothers.set(matches!(made, Err(NetError::Exists { .. })));
    let link = made?;
    mark::write_in_container(inside, link.index, owner)?;
    Ok(link)
}

/// Pushes to `undo` the deletion of the owner's link, which is about to be made, by its name: the kernel may make it and its
/// answer get lost. Nothing has the name, as [`Sides::refuse_repeat`] has seen. Once the returned cell is true, nothing is deleted.
pub fn push_undo(container: &ContainerSide, owner: &Owner, undo: &mut Undo) -> Rc<Cell<bool>> {
    let is_anothers = Rc::new(Cell::new(false));
    let (owner, ifname, keep) = (owner.clone(), owner.ifname.clone(), is_anothers.clone());
    let delete = move |inside: &Netlink| {
        let made = inside.link_by_name(owner.ifname.as_str())?.filter(|_| !keep.get());
        let made = made.filter(|link| mark::is_of(link, &owner) || !mark::is_on(link));
        made.map_or(Ok(()), |link| inside.delete_link(link.index).map(drop))
    };
    let (inside, path) = (container.netlink.clone(), container.namespace.path().to_owned());
    undo.push(format!("link {ifname}"), move || {
        // A socket that has failed once stays without answers.
        delete(&inside).or_else(|_| delete(&Netlink::open_in(&NetNs::open(&path)?)?))
    });
    is_anothers
}

/// What [`create`] does, as commands, for a link on the node's link `parent`. A MAC address that it chooses is left out.
pub fn commands(spec: &LinkSpec<'_>, parent: &str, owner: &Owner) -> Vec<String> {
    let spec_text = spec.to_string();
    let arguments = spec_text.strip_prefix("add ").unwrap_or(&spec_text);
    let mut commands = vec![Place::Node.ip(&format!("link add link {parent} netns CONTAINER {arguments}"))];
    commands.extend(mark::commands_in_container(&spec.name, owner));
    commands
}

/// Waits for the addresses, gives them to the link and sets it up; without any the link is only set up. Returns the
/// result, which has this one interface.
///
/// # Errors
/// IPAM's and the kernel's; an IPv6 address for a link whose MTU is too small for it.
pub fn configure<C>(
    request: &Request<C>,
    attachment: &Attachment,
    sides: &Sides,
    link: &Link,
    addresses: Addresses,
    dns: Option<Dns>,
    undo: &mut Undo,
) -> Result<CniResult, CniError> {
    let (container, ifname) = (&sides.container, &attachment.owner.ifname);
    let needs_link = addresses.need_link();
    if needs_link {
        Layer3::new(ifname).prepare(&container.namespace, undo)?;
    }
    let ipam = addresses.finish(undo)?;
    let has_addresses = ipam.is_some();
    let mac = link.mac.unwrap_or(MacAddr([0; 6]));
    let interface = result::interface(request, &link.name, mac, link.mtu, Some(&attachment.netns));
    let result = result::with_interfaces(vec![interface], 0, ipam.unwrap_or_default(), dns);
    if !has_addresses {
        container.set_up(link.index)?;
        return Ok(result);
    }
    mtu::refuse_ipv6(Some(link.mtu), result.ips.iter().map(|ip| ip.address))?;
    Layer3::of(&result, ifname)?.apply(container, link.index, || Ok(()), undo)?;
    if needs_link {
        announce(container, link);
    }
    Ok(result)
}

/// Announces the addresses to the neighbours, as the kernel does when a link goes up that has them, for one that was up
/// before it had any: it does so too when a hardware address is set, be it the same one. Some kinds of links take none.
fn announce(container: &ContainerSide, link: &Link) {
    let _ = container.netlink.change_link(link.index, &LinkChange { mac: link.mac, ..LinkChange::default() });
}

/// Compares the link, its addresses and its routes with the result of ADD. Returns it too, for what is special about its
/// kind.
///
/// # Errors
/// The kernel's.
pub fn check(sides: &Sides, wanted: &LinkCheck<'_>) -> Result<(Option<Link>, Vec<Difference>), CniError> {
    let inside = &sides.container.netlink;
    let (link, mut differences) = wanted.container(inside, None)?;
    if let Some(link) = &link {
        let layer3 = Layer3::of(wanted.result, wanted.ifname)?;
        differences.extend(layer3.check_result(wanted.result, inside, link.index)?);
    }
    Ok((link, differences))
}

/// Deletes the link: the one with the owner's mark, in the namespace that the runtime names, else in that of the result of
/// ADD, else in whichever it is, if it is this node's. Or, in the first, one of the interface's name and this kind without any mark, which the Go
/// plugin or an ADD that was killed made, unless the result reports another hardware address for it. Idempotent; a namespace that
/// is gone is fine.
///
/// Constant time, but where neither names a namespace: then all are looked into.
///
/// # Errors
/// The kernel's.
pub fn delete(detachment: &Detachment, kind: &str, prev_result: Option<&CniResult>) -> Result<(), SidesError> {
    let owner = &detachment.owner;
    let reported = prev_result.and_then(|result| result.interface(&owner.ifname)).map(|(_, reported)| reported);
    let sandbox = reported.map(|reported| Path::new(&reported.sandbox)).filter(|path| path.is_absolute());
    let Some(path) = detachment.netns.as_deref().or(sandbox) else {
        let node = NetNs::current()?;
        let marked = |inside: &Netlink| {
            let found = mark::find(inside, &owner.key())?;
            Ok(found.filter(|link| mark::is_of_node(link, &node)))
        };
        return NetNs::for_each(|namespace| delete_found(&Netlink::open_in(namespace)?, marked));
    };
    let Some(namespace) = NetNs::open_if_there(Some(path))? else { return Ok(()) };
    let unmarked = |link: &Link| {
        detachment.netns.is_some()
            && link.kind.as_deref() == Some(kind)
            && !mark::is_on(link)
            && check_mac(link, reported).is_none()
    };
    delete_found(&Netlink::open_in(&namespace)?, |inside| match mark::find(inside, &owner.key())? {
        Some(link) => Ok(Some(link)),
        None => Ok(inside.link_by_name(owner.ifname.as_str())?.filter(unmarked)),
    })
}

fn delete_found(inside: &Netlink, find: impl Fn(&Netlink) -> Result<Option<Link>, NetError>) -> Result<(), SidesError> {
    if let Some(link) = find(inside)? {
        inside.delete_link(link.index)?;
    }
    Ok(())
}

/// Deletes the links of this node's owners of `network` that are not in `valid`, in every namespace that has a process or is
/// mounted; past a failure, reporting the first. Links without a mark, or with another node's, stay. Lists all processes, mounts, and links of their namespaces.
///
/// # Errors
/// The first failure.
pub fn retain(network: &NetworkName, valid: &[Owner]) -> Result<(), SidesError> {
    let (mut failure, node) = (None, NetNs::current()?);
    NetNs::for_each(|namespace| {
        let is_ours = |link: &Link| mark::is_of_node(link, &node);
        let retained = Netlink::open_in(namespace).and_then(|inside| mark::retain(&inside, network, valid, is_ours));
        if let Err(error) = retained {
            failure.get_or_insert(error);
        }
        Ok::<_, SidesError>(())
    })?;
    failure.map_or(Ok(()), |error| Err(error.into()))
}

/// Fails, as STATUS does, if the kernel can make no link of this kind on the node. Its parent need not exist.
///
/// # Errors
/// The kernel's.
pub fn probe(kind: &dyn LinkKind) -> Result<(), CniError> {
    let name: IfName = "cni-status".parse()?;
    Netlink::open()?.probe_kind(&name, kind).map_err(|error| CniError::unavailable(error.into()))
}

/// All of DEL, for a plugin that has nothing but this link: deletes it, then releases the addresses, or the other way round
/// where IPAM needs the link.
///
/// # Errors
/// The first failure.
pub fn del<C>(request: &Request<C>, detachment: &Detachment, kind: &str, ipam: &IpamConfig) -> Result<(), CniError> {
    // What a killed ADD has left at work must not be done after this.
    let _alone = Lock::if_possible(Lock::of_attachment(&detachment.owner))?;
    let mut removal = Removal::begin(request, ipam, Ipam::del);
    removal.link(delete(detachment, kind, request.prev_result.as_ref()));
    removal.finish()
}

/// All of GC, for a plugin that has nothing but such links.
///
/// # Errors
/// The first failure.
pub fn gc<C>(request: &Request<C>, valid: &[Owner], ipam: &IpamConfig) -> Result<(), CniError> {
    let mut removal = Removal::begin(request, ipam, Ipam::gc);
    removal.step(Lock::settle_orphans(&request.network));
    removal.link(retain(&request.network, valid));
    removal.finish()
}
