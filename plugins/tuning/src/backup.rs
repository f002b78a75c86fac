//! The values from before ADD, in the Go plugin's file format, and their restoration: either plugin can restore the values that
//! the other one changed.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use cni_net::{Link, LinkChange, NetError, NetNs, Netlink, sysctl};
use cni_plugin::state::{self, Entry, StateDir};
use cni_plugin::{CniError, IfName, NetworkName, Owner};
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// Where the Go plugin keeps its backups, and so where this one does.
const DEFAULT_DIR: &str = "/run/cni/tuning";
/// No backup is as long, in bytes.
const CONTENT_MAX: u64 = 4 * 1024 * 1024;

/// Why a backup could not be written, read or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} backup {path:?}: {source}; the key dataDir sets the directory")]
pub struct BackupError {
    verb: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// What one attachment has changed, as it was before. The keys of the first half are the Go plugin's, which ignores the
/// others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Backup {
    /// The hardware address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// `IFF_PROMISC`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promisc: Option<bool>,
    /// In bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// `IFF_ALLMULTI`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allmulti: Option<bool>,
    /// In packets.
    #[serde(rename = "txQLen", skip_serializing_if = "Option::is_none")]
    pub tx_q_len: Option<u32>,
    /// Whose it is: the file's name has the container and the interface only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The namespace's inode: a stale backup must not be put back elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<u64>,
    /// The interface's index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
    /// Of a veth, the index of its other end. The kernel gives a new namespace the inode of one that has just gone, and the
    /// same indexes in it; the node's indexes only grow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<u32>,
    /// Sysctls by path below `/proc/sys`.
    #[serde(skip_serializing_if = "sysctl::Values::is_empty")]
    pub sysctl: sysctl::Values,
}

impl Backup {
    /// Of these attributes.
    pub fn of(link: &LinkChange) -> Self {
        Self {
            mac: link.mac.map(|mac| mac.to_string()),
            promisc: link.promisc,
            mtu: link.mtu,
            allmulti: link.allmulti,
            tx_q_len: link.txqlen,
            ..Self::default()
        }
    }

    /// The change that puts the attributes back.
    pub fn link(&self) -> LinkChange {
        LinkChange {
            mac: self.mac.as_ref().and_then(|mac| mac.parse().ok()),
            promisc: self.promisc,
            mtu: self.mtu,
            allmulti: self.allmulti,
            txqlen: self.tx_q_len,
            ..LinkChange::default()
        }
    }

    /// True unless it names another network. Those of the Go plugin name none.
    pub fn may_be_of(&self, network: &NetworkName) -> bool {
        self.network.as_deref().is_none_or(|found| found == network.as_str())
    }

    /// True if it was made in this namespace and of the interface that has the name there now.
    pub fn is_of(&self, namespace: &NetNs, ifname: &IfName) -> Result<bool, NetError> {
        if self.netns != Some(namespace.inode()) {
            return Ok(false);
        }
        let link = Netlink::open_in(namespace)?.link_by_name(ifname.as_str())?;
        Ok(link.is_some_and(|link| self.is_of_link(&link)))
    }

    /// Restores every value, also after a failure; returns the failures in words. Restores nothing if the namespace or the
    /// interface is another one by now.
    pub fn restore(&self, namespace: &NetNs, ifname: &IfName) -> Vec<String> {
        if self.netns.is_some_and(|inode| inode != namespace.inode()) {
            return Vec::new();
        }
        let mut failures: Vec<String> = match namespace.run(|| sysctl::restore(&self.sysctl)) {
            Ok(failed) => failed.iter().map(ToString::to_string).collect(),
            Err(error) => vec![error.to_string()],
        };
        let link = self.restore_link(namespace, ifname).unwrap_or_else(|error| vec![error]);
        failures.extend(link.iter().map(ToString::to_string));
        failures
    }

    fn restore_link(&self, namespace: &NetNs, ifname: &IfName) -> Result<Vec<NetError>, NetError> {
        let inside = Netlink::open_in(namespace)?;
        let link = inside.link_by_name(ifname.as_str())?.filter(|link| self.is_of_link(link));
        let put_back =
            |index| self.link().each().filter_map(|change| inside.change_link(index, &change).err()).collect();
        Ok(link.map(|link| put_back(link.index)).unwrap_or_default())
    }

    /// True if it was made of this link, as far as it says of which.
    fn is_of_link(&self, link: &Link) -> bool {
        self.ifindex.is_none_or(|index| index == link.index)
            && self.peer.is_none_or(|peer| link.peer_index == Some(peer))
    }

    /// Completes this backup with an earlier one of the same interface, which a plugin before this one in the chain or an earlier
    /// ADD wrote: the older values are kept.
    pub fn after(self, earlier: Self) -> Self {
        let interface = |backup: &Self| (backup.netns, backup.ifindex, backup.peer);
        if earlier.netns.is_none() || interface(&earlier) != interface(&self) {
            return self;
        }
        let mut sysctl = self.sysctl;
        sysctl.extend(earlier.sysctl);
        Self {
            mac: earlier.mac.or(self.mac),
            promisc: earlier.promisc.or(self.promisc),
            mtu: earlier.mtu.or(self.mtu),
            allmulti: earlier.allmulti.or(self.allmulti),
            tx_q_len: earlier.tx_q_len.or(self.tx_q_len),
            network: earlier.network,
            netns: self.netns,
            ifindex: self.ifindex,
            peer: self.peer,
            sysctl,
        }
    }
}

/// The directory of the backups.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// The configured one, which need not exist yet.
    pub fn of(config: &Config) -> Result<Self, CniError> {
        Ok(Self { dir: config.data_dir.path_or(DEFAULT_DIR, "dataDir")? })
    }

    /// The attachment's backup, if there is one. One that can't be decoded has nothing to put back, and what is no regular
    /// file is no backup.
    pub fn read(&self, owner: &Owner) -> Result<Option<Backup>, BackupError> {
        let name = file_name(owner);
        let failed = |source| self.failed("read", &name, source);
        match self.open().map_err(failed)? {
            Some(dir) => read(&dir, &name).map_err(failed),
            None => Ok(None),
        }
    }

    /// Writes the attachment's backup, whole or not at all, readable by root only. Replaces the one that is there.
    pub fn write(&self, owner: &Owner, backup: &Backup) -> Result<(), BackupError> {
        let name = file_name(owner);
        self.replace(&name, backup).map_err(|source| self.failed("write", &name, source))
    }

    /// Removes the attachment's backup. Idempotent.
    pub fn remove(&self, owner: &Owner) -> Result<(), BackupError> {
        let name = file_name(owner);
        let removed = self.open().and_then(|dir| dir.map_or(Ok(()), |dir| dir.remove_with_unfinished(&name)));
        removed.map_err(|source| self.failed("remove", &name, source))
    }

    /// Removes the network's backups whose owners aren't in `valid`. Those of other networks and of the Go plugin,
    /// which name no network, stay. Continues after what can't be read or removed, and reports the first such failure at the end.
    pub fn retain(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), BackupError> {
        let failed = |source| self.failed("list", "", source);
        let Some(dir) = self.open().map_err(failed)? else { return Ok(()) };
        let kept: BTreeSet<String> = valid.iter().map(file_name).collect();
        let mut failure = None;
        let names = dir.names().map_err(failed)?;
        for name in names.iter().filter(|name| name.ends_with(".json") && !kept.contains(*name)) {
            let stale = read(&dir, name)
                .map(|found| found.is_some_and(|backup| backup.network.as_deref() == Some(network.as_str())))
                .map_err(|source| self.failed("read", name, source));
            let removed = stale.and_then(|stale| match stale {
                true => dir.remove(name).map(drop).map_err(|source| self.failed("remove", name, source)),
                false => Ok(()),
            });
            failure = failure.or(removed.err());
        }
        failure.map_or(Ok(()), Err)
    }

    /// Fails if no backup could be written. Leaves nothing behind.
    pub fn probe(&self) -> Result<(), BackupError> {
        let probed = self.open().and_then(|dir| match dir {
            Some(dir) => dir.probe(),
            None => StateDir::probe_make(&self.dir),
        });
        probed.map_err(|source| self.failed("write", "", source))
    }

    /// The directory, if it is there: below an ordinary file there is none.
    fn open(&self) -> io::Result<Option<StateDir>> {
        match StateDir::open(&self.dir, true) {
            Err(error) if error.kind() == ErrorKind::NotADirectory => Ok(None),
            result => result,
        }
    }

    fn replace(&self, name: &str, backup: &Backup) -> io::Result<()> {
        StateDir::make(&self.dir, 0o700)?;
        let dir = StateDir::open(&self.dir, true)?.ok_or(ErrorKind::NotFound)?;
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
        let mut text = Vec::new();
        backup.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
        dir.replace(name, &text)
    }

    fn failed(&self, verb: &'static str, name: &str, source: io::Error) -> BackupError {
        let path = if name.is_empty() { self.dir.clone() } else { self.dir.join(name) };
        BackupError { verb, path, source }
    }
}

/// As the Go plugin names it, but for container IDs that don't fit into a file's name. IDs and interface names have no '/', so
/// it stays in the directory.
fn file_name(owner: &Owner) -> String {
    state::file_name(owner.container_id.as_str(), &format!("_{}.json", owner.ifname))
}

fn read(dir: &StateDir, name: &str) -> io::Result<Option<Backup>> {
    Ok(match dir.read(name, CONTENT_MAX)? {
        Entry::File(text) => Some(serde_json::from_slice(&text).unwrap_or_default()),
        Entry::Absent | Entry::Other => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(netns: u64, mtu: u32, network: &str) -> Backup {
        Backup { mtu: Some(mtu), netns: Some(netns), network: Some(network.to_owned()), ..Backup::default() }
    }

    #[test]
    fn of_two_backups_of_an_interface_the_earlier_counts() {
        let sysctl = |value: &str| sysctl::Values::from([("net/a".to_owned(), value.to_owned())]);
        let earlier = Backup { sysctl: sysctl("0"), ..backup(1, 1500, "a") };
        let later = Backup { sysctl: sysctl("1"), allmulti: Some(false), ..backup(1, 1400, "b") };
        let both = later.after(earlier);
        assert_eq!((both.mtu, both.allmulti, both.sysctl["net/a"].as_str()), (Some(1500), Some(false), "0"));
        assert_eq!(both.network.as_deref(), Some("a"));
    }

    #[test]
    fn a_stale_backup_and_one_of_the_go_plugin_are_replaced() {
        assert_eq!(backup(2, 1400, "a").after(backup(1, 1500, "a")).mtu, Some(1400));
        let veth = |peer| Backup { peer: Some(peer), ..backup(1, 1500, "a") };
        assert_eq!(Backup { mtu: Some(1400), ..veth(8) }.after(veth(7)).mtu, Some(1400));
        let of_go: Backup = serde_json::from_str(r#"{"mac": "02:00:00:00:00:01", "mtu": 1500}"#).unwrap();
        assert!(of_go.may_be_of(&"any".parse().unwrap()));
        assert_eq!(backup(1, 1400, "a").after(of_go), backup(1, 1400, "a"));
    }

    #[test]
    fn only_what_is_known_is_written() {
        assert_eq!(
            serde_json::to_string(&Backup { tx_q_len: Some(0), ..Backup::default() }).unwrap(),
            r#"{"txQLen":0}"#
        );
    }
}
