//! A VLAN link of the node that containers' links are on, made with the first attachment that names it and deleted with the
//! last (`createMaster`).
//!
//! Each attachment marks it with an alternative name of its own, by which DEL finds it in constant time. A link without any such
//! name is not ours and stays. The kernel limits a link's alternative names to 64 KiB, which is room for some 490 attachments
//! (`rtnl_alt_ifname` in net/core/rtnetlink.c).

use std::collections::HashSet;
use std::rc::Rc;

use cni_net::{Link, LinkSpec, NetError, Netlink, VlanLink};
use cni_plugin::{CniError, IfName, Lock, NameError, NetworkName, Owner, Undo};

/// What the alternative names of users begin with.
const PREFIX: &str = "cni-user-";
/// The largest VLAN ID (IEEE 802.1Q).
pub const MAX_ID: u16 = 4094;

/// Why there is no such link.
#[derive(Debug, thiserror::Error)]
pub enum MadeVlanError {
    /// The kernel refused.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The name says nothing about what to make.
    #[error("createMaster: {0:?} is not LINK.ID, the name of a link of the node and a VLAN ID from 1 to {MAX_ID}")]
    Name(String),
    /// It can't be a link's.
    #[error("createMaster: {0}")]
    IfName(#[from] NameError),
    /// What it would be on isn't there.
    #[error("createMaster: there is no link {base:?} on the node, which {name} would be a VLAN of")]
    NoBase {
        /// As configured.
        name: String,
        /// The link below.
        base: String,
    },
}

/// The VLAN link with this name, `LINK.ID`; made, if there is none. Marks one that we made as used by this owner, and pushes the
/// mark's removal to `undo`. Idempotent.
///
/// # Errors
/// [`MadeVlanError`].
pub fn ensure(host: &Rc<Netlink>, name: &str, owner: &Owner, undo: &mut Undo) -> Result<(), CniError> {
    // No DEL deletes it while it has no mark of this owner yet.
    let _in_use = Lock::if_possible(Lock::to_use_shared_links())?;
    let link = match host.link_by_name(name).map_err(MadeVlanError::from)? {
        Some(link) if !is_ours(&link) => return Ok(()),
        Some(link) => link,
        None => make(host, name)?,
    };
    let (taken_back, of) = (Rc::clone(host), owner.clone());
    undo.push(format!("the use of {name}"), move || release(&taken_back, &of));
    match host.add_altname(link.index, &altname(&owner.key())) {
        Ok(()) | Err(NetError::Exists { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn make(host: &Netlink, name: &str) -> Result<Link, MadeVlanError> {
    let (base, id) = parts(name)?;
    let base = base_link(host, name, base)?;
    let kind = VlanLink { parent: base.index, id };
    let spec = LinkSpec { up: true, ..LinkSpec::new(name.parse::<IfName>()?, &kind) };
    match host.create_link(&spec) {
        // Another ADD has just made it.
        Err(exists @ NetError::Exists { .. }) => Ok(host.link_by_name(name)?.ok_or(exists)?),
        made => Ok(made?),
    }
}

/// Fails if [`ensure`] would, as far as that can be seen.
///
/// # Errors
/// [`MadeVlanError`].
pub fn probe(host: &Netlink, name: &str) -> Result<Link, MadeVlanError> {
    match host.link_by_name(name)? {
        Some(link) => Ok(link),
        None => base_link(host, name, parts(name)?.0),
    }
}

fn base_link(host: &Netlink, name: &str, base: &str) -> Result<Link, MadeVlanError> {
    let missing = || MadeVlanError::NoBase { name: name.to_owned(), base: base.to_owned() };
    host.link_by_name(base)?.ok_or_else(missing)
}

fn parts(name: &str) -> Result<(&str, u16), MadeVlanError> {
    let found = name.rsplit_once('.').and_then(|(base, id)| Some((base, id.parse().ok()?)));
    found
        .filter(|(base, id)| !base.is_empty() && (1..=MAX_ID).contains(id))
        .ok_or_else(|| MadeVlanError::Name(name.to_owned()))
}

/// Removes this owner's mark and, if it was the last one, the link. Idempotent. Needs no configuration.
///
/// # Errors
/// The kernel's.
pub fn release(host: &Netlink, owner: &Owner) -> Result<(), CniError> {
    let mark = altname(&owner.key());
    match host.link_by_altname(&mark)? {
        Some(link) => unmark(host, &link, &[mark]),
        None => Ok(()),
    }
}

/// As [`release`], for all owners of the network that are not in `valid`. Lists all links.
///
/// # Errors
/// The kernel's.
pub fn retain(host: &Netlink, network: &NetworkName, valid: &[Owner]) -> Result<(), CniError> {
    let of_network = altname(&Owner::network_key(network));
    let keep: HashSet<String> = valid.iter().map(|owner| altname(&owner.key())).collect();
    for link in host.links()? {
        let is_stale = |name: &&String| name.starts_with(&of_network) && !keep.contains(*name);
        let stale: Vec<String> = link.altnames.iter().filter(is_stale).cloned().collect();
        if !stale.is_empty() {
            unmark(host, &link, &stale)?;
        }
    }
    Ok(())
}

fn unmark(host: &Netlink, link: &Link, marks: &[String]) -> Result<(), CniError> {
    let _unused = Lock::if_possible(Lock::to_delete_shared_links())?;
    for mark in marks {
        host.delete_altname(link.index, mark)?;
    }
    // As it is now: another ADD may have marked it.
    if host.link_by_index(link.index)?.is_some_and(|link| !is_ours(&link)) {
        host.delete_link(link.index)?;
    }
    Ok(())
}

fn is_ours(link: &Link) -> bool {
    link.altnames.iter().any(|name| name.starts_with(PREFIX))
}

fn altname(owner_key: &str) -> String {
    format!("{PREFIX}{owner_key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_link_and_an_id() {
        assert_eq!(parts("eth0.100").unwrap(), ("eth0", 100));
        assert_eq!(parts("eth0.5.4094").unwrap(), ("eth0.5", 4094));
        for bad in ["eth0", "eth0.", ".5", "eth0.0", "eth0.4095", "eth0.x", ""] {
            let error = parts(bad).unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:?}")) && error.contains("4094"), "{error}");
        }
    }
}
