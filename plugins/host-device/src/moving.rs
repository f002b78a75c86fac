//! Moving a device into a container, and back.
//!
//! The owner's mark, an alternative name, is on the device from before it moves until it is back as it was. The kernel keeps it
//! in either direction, also when the namespace dies and the kernel itself moves hardware to the initial one. So DEL and GC find
//! the device in constant time wherever it is, and a call that was killed is continued by the next one.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cni_attach::Sides;
use cni_net::{Link, LinkChange, NetError, NetNs, NetNsError, Netlink};
use cni_plugin::{Attachment, IfName, Undo};

use crate::saved::{Saved, SavedError, Store};

/// What the marks begin with. Not what cni-attach's begin with: GC deletes links with those, and a device is not to be deleted.
const MARK: &str = "cni-device-";
/// How long the kernel may take to bring hardware back from a namespace that has ended: it works through those in turn
/// (`cleanup_net` in net/core/net_namespace.c).
const RETURN_LIMIT: Duration = Duration::from_secs(2);
const RETURN_INTERVAL: Duration = Duration::from_millis(20);

/// Why a device can't be moved.
#[derive(Debug, thiserror::Error)]
pub enum MovingError {
    /// The kernel refused.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The container's namespace, or ours.
    #[error(transparent)]
    NetNs(#[from] NetNsError),
    /// The file about it.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// Another link has its name by now.
    #[error(
        "cannot give {link} its name {name} back: the node has another link of that name; rename or delete that one"
    )]
    NameTaken {
        /// What it is called now.
        link: String,
        /// What it was called.
        name: IfName,
    },
    /// Neither a file nor its alias says what it was called.
    #[error("cannot put {link} back: its alias, which has its name on the node, is not set")]
    NoName {
        /// What it is called now.
        link: String,
    },
    /// It has gone.
    #[error("device {name} is not in the container after it was moved there")]
    Lost {
        /// The device.
        name: String,
    },
}

/// The mark of the owner with this key.
pub fn mark(owner_key: &str) -> String {
    format!("{MARK}{owner_key}")
}

/// True if the link has an attachment's mark.
pub fn is_marked(link: &Link) -> bool {
    link.altnames.iter().any(|name| name.starts_with(MARK))
}

/// Moves the node's link into the container, under the attachment's name and down, with its own name as the alias: that is
/// where the Go plugin looks for it. Pushes its way back to `undo`.
///
/// # Errors
/// [`MovingError`].
pub fn take(
    store: &Store,
    sides: &Sides,
    attachment: &Attachment,
    link: &Link,
    undo: &mut Undo,
) -> Result<Link, MovingError> {
    let (host, inside, key) = (&sides.host, &sides.container.netlink, attachment.owner.key());
    let saved = Saved::of(host, link, attachment)?;
    store.write(&key, &saved)?;
    let (back, netns) = (key.clone(), attachment.netns.clone());
    undo.push(format!("the move of device {}", saved.name), move || {
        let store = Store::make()?;
        put_back(&store, &back, Some(&netns))
    });
    host.add_altname(link.index, &mark(&key))?;
    let name = Some(attachment.owner.ifname.clone());
    let change = LinkChange { name, alias: Some(saved.name.to_string()), ..LinkChange::default() };
    host.move_link(link.index, &sides.container.namespace, &change)?;
    inside.link_by_altname(&mark(&key))?.ok_or_else(|| MovingError::Lost { name: saved.name.to_string() })
}

/// A link of the node that a container has left without DEL, as when the namespace ended: made what it was, and returned as it
/// is then. Other links are returned as they are.
///
/// # Errors
/// [`MovingError`].
pub fn reclaim(store: &Store, host: &Netlink, link: Link) -> Result<Link, MovingError> {
    for key in link.altnames.iter().filter_map(|name| name.strip_prefix(MARK)) {
        put_back(store, key, None)?;
    }
    Ok(if is_marked(&link) { host.link_by_index(link.index)?.unwrap_or(link) } else { link })
}

/// Puts the device of the owner with this key back on the node, from the namespace at this path or the one that it was moved
/// to, and makes it what it was: name, alias, MTU, hardware address, addresses, up or down. Idempotent; a device that is nowhere
/// has died with the namespace, and is fine.
///
/// # Errors
/// [`MovingError`]. What was done stays done, and the next call goes on.
pub fn put_back(store: &Store, owner_key: &str, netns: Option<&Path>) -> Result<(), MovingError> {
    let (host, mark, saved) = (Netlink::open()?, mark(owner_key), store.read(owner_key)?);
    let namespace = NetNs::open_if_there(netns.or(saved.as_ref().map(|saved| saved.netns.as_path())))?;
    let has_ended = namespace.is_none();
    if let Some(namespace) = namespace {
        let inside = Netlink::open_in(&namespace)?;
        if let Some(link) = inside.link_by_altname(&mark)? {
            let name = saved.as_ref().map(|saved| saved.name.clone()).or_else(|| name_in_alias(&link));
            let name = name.ok_or_else(|| MovingError::NoName { link: link.name.clone() })?;
            move_out(&inside, &host, &link, &name)?;
        }
    }
    let may_come = has_ended && saved.as_ref().is_some_and(|saved| saved.hardware);
    if let Some(link) = found(&host, &mark, if may_come { RETURN_LIMIT } else { Duration::ZERO })? {
        restore(&host, &link, saved.as_ref())?;
    } else if may_come {
        eprintln!(
            "the device is not back from a namespace that has ended; GC puts it back once the kernel has moved it"
        );
        return Ok(());
    }
    Ok(store.remove(owner_key)?)
}

/// A device in the container that the Go plugin moved there: not marked, with its name on the node as alias.
pub fn name_in_alias(link: &Link) -> Option<IfName> {
    link.alias.as_deref()?.parse().ok()
}

/// Moves the link out of the container, down, under this name.
pub fn move_out(inside: &Netlink, host: &Netlink, link: &Link, name: &IfName) -> Result<(), MovingError> {
    if host.link_by_name(name.as_str())?.is_some() {
        return Err(MovingError::NameTaken { link: link.name.clone(), name: name.clone() });
    }
    let change = |change: &LinkChange| inside.change_link(link.index, change);
    change(&LinkChange { up: Some(false), ..LinkChange::default() })?;
    // Where the container doesn't have the name: udev on the node sees the device under this one only.
    if inside.link_by_name(name.as_str())?.is_none() {
        change(&LinkChange { name: Some(name.clone()), ..LinkChange::default() })?;
    }
    let renamed = LinkChange { name: Some(name.clone()), ..LinkChange::default() };
    Ok(inside.move_link(link.index, &NetNs::current()?, &renamed)?)
}

/// The link with the mark on the node, as soon as it is there.
fn found(host: &Netlink, mark: &str, limit: Duration) -> Result<Option<Link>, NetError> {
    let end = Instant::now() + limit;
    loop {
        let link = host.link_by_altname(mark)?;
        if link.is_some() || Instant::now() >= end {
            return Ok(link);
        }
        sleep(RETURN_INTERVAL);
    }
}

/// Makes a link of the node what it was. The mark goes last.
fn restore(host: &Netlink, link: &Link, saved: Option<&Saved>) -> Result<(), MovingError> {
    let name = saved.map(|saved| saved.name.clone()).or_else(|| name_in_alias(link));
    if let Some(name) = name.filter(|name| name.as_str() != link.name) {
        if host.link_by_name(name.as_str())?.is_some() {
            return Err(MovingError::NameTaken { link: link.name.clone(), name });
        }
        // Before Linux 6.2 a link that is up can't be renamed.
        host.change_link(link.index, &LinkChange { up: Some(false), ..LinkChange::default() })?;
        host.change_link(link.index, &LinkChange { name: Some(name), ..LinkChange::default() })?;
    }
    let alias = saved.map(|saved| saved.alias.clone()).unwrap_or_default();
    host.change_link(link.index, &LinkChange { alias: Some(alias), ..LinkChange::default() })?;
    if let Some(saved) = saved {
        for failure in restore_settings(host, link, saved) {
            eprintln!("device {} is not as it was: {failure}", saved.name);
        }
    }
    for mark in link.altnames.iter().filter(|name| name.starts_with(MARK)) {
        host.delete_altname(link.index, mark)?;
    }
    Ok(())
}

/// The settings that the node can do without: returns the failures.
fn restore_settings(host: &Netlink, link: &Link, saved: &Saved) -> Vec<NetError> {
    let different = LinkChange {
        mtu: Some(saved.mtu).filter(|mtu| *mtu != link.mtu),
        mac: saved.mac.filter(|mac| Some(*mac) != link.mac),
        ..LinkChange::default()
    };
    let mut results: Vec<Result<(), NetError>> =
        different.each().map(|change| host.change_link(link.index, &change)).collect();
    let add = |address| host.add_address(link.index, address, &Default::default()).map(drop);
    results.extend(saved.addresses.iter().map(|address| add(*address)));
    if saved.up {
        results.push(host.change_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() }));
    }
    results.into_iter().filter_map(Result::err).collect()
}
