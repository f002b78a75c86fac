//! Putting back what was before.

use cni_net::{NetError, NetNs, Netlink, sysctl};
use cni_plugin::IfName;

use crate::backup::Backup;

/// Puts everything back that the backup says, past every failure; returns the failures in words. Where the namespace or
/// the interface is another one by now, nothing is left to put back.
pub fn restore(namespace: &NetNs, ifname: &IfName, backup: &Backup) -> Vec<String> {
    if backup.netns.is_some_and(|inode| inode != namespace.inode()) {
        return Vec::new();
    }
    let mut failures: Vec<String> = match namespace.run(|| sysctl::restore(&backup.sysctl)) {
        Ok(failed) => failed.iter().map(ToString::to_string).collect(),
        Err(error) => vec![error.to_string()],
    };
    let link = restore_link(namespace, ifname, backup).unwrap_or_else(|error| vec![error]);
    failures.extend(link.iter().map(ToString::to_string));
    failures
}

/// True if the backup was made in this namespace and of the interface that has the name there now.
pub fn is_of(namespace: &NetNs, ifname: &IfName, backup: &Backup) -> Result<bool, NetError> {
    if !backup.is_of_namespace(namespace) {
        return Ok(false);
    }
    let link = Netlink::open_in(namespace)?.link_by_name(ifname.as_str())?;
    Ok(link.is_some_and(|link| backup.is_of_link(&link)))
}

fn restore_link(namespace: &NetNs, ifname: &IfName, backup: &Backup) -> Result<Vec<NetError>, NetError> {
    let inside = Netlink::open_in(namespace)?;
    let link = inside.link_by_name(ifname.as_str())?;
    let same = link.filter(|link| backup.is_of_link(link));
    let put_back = |index| backup.link().each().filter_map(|change| inside.change_link(index, &change).err()).collect();
    Ok(same.map(|link| put_back(link.index)).unwrap_or_default())
}
