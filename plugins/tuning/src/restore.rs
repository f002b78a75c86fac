//! Putting back what was before.

use cni_net::{LinkChange, NetError, NetNs, Netlink, SysctlError, sysctl};
use cni_plugin::IfName;

use crate::backup::Backup;

/// Puts everything back that the backup says, past every failure; returns the failures in words. Where the namespace or
/// the interface is another one by now, nothing is left to put back.
pub fn restore(namespace: &NetNs, ifname: &IfName, backup: &Backup) -> Vec<String> {
    if backup.netns.is_some_and(|inode| inode != namespace.inode()) {
        return Vec::new();
    }
    let sysctls = namespace.run(|| restore_sysctls(backup));
    let mut failures = sysctls.unwrap_or_else(|error| vec![error.to_string()]);
    if let Err(error) = restore_link(namespace, ifname, backup, &mut failures) {
        failures.push(error.to_string());
    }
    failures
}

fn restore_sysctls(backup: &Backup) -> Vec<String> {
    // As they are written: `all`, which the kernel copies to the interfaces, before the interfaces' own.
    let put_back = |(path, value): (&String, &String)| match sysctl::ensure(path, value) {
        Ok(_) | Err(SysctlError::NotFound { .. }) => None,
        Err(error) => Some(error.to_string()),
    };
    backup.sysctl.iter().filter_map(put_back).collect()
}

/// One at a time, so that one that fails doesn't keep the others.
fn restore_link(
    namespace: &NetNs,
    ifname: &IfName,
    backup: &Backup,
    failures: &mut Vec<String>,
) -> Result<(), NetError> {
    let none = LinkChange::default;
    let mac = backup.mac.as_ref().and_then(|mac| mac.parse().ok());
    let changes = [
        LinkChange { mtu: backup.mtu, ..none() },
        LinkChange { mac, ..none() },
        LinkChange { promisc: backup.promisc, ..none() },
        LinkChange { allmulti: backup.allmulti, ..none() },
        LinkChange { txqlen: backup.tx_q_len, ..none() },
    ];
    let inside = Netlink::open_in(namespace)?;
    let link = inside.link_by_name(ifname.as_str())?;
    let Some(link) = link.filter(|link| backup.ifindex.is_none_or(|index| index == link.index)) else {
        return Ok(());
    };
    for change in changes.iter().filter(|change| **change != none()) {
        if let Err(error) = inside.change_link(link.index, change) {
            failures.push(error.to_string());
        }
    }
    Ok(())
}
