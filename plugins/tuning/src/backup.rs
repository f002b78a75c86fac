//! What was before ADD, in the Go plugin's files: either can put back what the other has changed.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cni_net::{LinkChange, sysctl};
use cni_plugin::{CniError, NetworkName, Owner, Undecoded};
use serde::{Deserialize, Serialize};

/// Where the Go plugin keeps its backups, and so where this one does.
const DEFAULT_DIR: &str = "/run/cni/tuning";

/// Why a backup could not be written, read or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} backup {path:?}: {source}; dataDir says where backups are")]
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

    /// True unless it says that it is another network's. Those of the Go plugin don't say.
    pub fn may_be_of(&self, network: &NetworkName) -> bool {
        self.network.as_deref().is_none_or(|found| found == network.as_str())
    }

    /// Completed by an earlier one of the same interface, made by a plugin before this one in the chain or by an ADD
    /// that is repeated: what was before both counts.
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
    pub fn of(config: &Undecoded) -> Result<Self, CniError> {
        Ok(Self { dir: config.directory(&["dataDir"], DEFAULT_DIR)? })
    }

    /// The attachment's backup, if there is one. One that can't be understood has nothing to put back.
    pub fn read(&self, owner: &Owner) -> Result<Option<Backup>, BackupError> {
        read(&self.dir.join(file_name(owner)))
    }

    /// Writes the attachment's backup, whole or not at all, readable by root only. Replaces the one that is there.
    pub fn write(&self, owner: &Owner, backup: &Backup) -> Result<(), BackupError> {
        let path = self.dir.join(file_name(owner));
        self.replace(&path, backup).map_err(|source| BackupError { verb: "write", path, source })
    }

    /// Removes the attachment's backup. Idempotent.
    pub fn remove(&self, owner: &Owner) -> Result<(), BackupError> {
        let path = self.dir.join(file_name(owner));
        unlink(&unfinished(&path)).and_then(|()| unlink(&path)).map_err(|source| BackupError {
            verb: "remove",
            path,
            source,
        })
    }

    /// Removes the network's backups whose owners aren't in `valid`. Those of others and of the Go plugin, which don't
    /// say whose they are, stay.
    pub fn retain(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), BackupError> {
        let failed = |source| BackupError { verb: "list", path: self.dir.clone(), source };
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        let kept: Vec<String> = valid.iter().map(file_name).collect();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !name.ends_with(".json") || kept.iter().any(|kept| kept == name) {
                continue;
            }
            if read(&path)?.is_some_and(|backup| backup.network.as_deref() == Some(network.as_str())) {
                unlink(&path).map_err(|source| BackupError { verb: "remove", path, source })?;
            }
        }
        Ok(())
    }

    fn replace(&self, path: &Path, backup: &Backup) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let unfinished = unfinished(path);
        unlink(&unfinished)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
        let mut text = Vec::new();
        backup.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
        let written = file.write_all(&text).and_then(|()| std::fs::rename(&unfinished, path));
        if written.is_err() {
            // The first error is the one to report.
            let _ = unlink(&unfinished);
        }
        written
    }
}

/// As the Go plugin names it. IDs and interface names have no '/', so it stays in the directory.
fn file_name(owner: &Owner) -> String {
    format!("{}_{}.json", owner.container_id, owner.ifname)
}

/// IDs begin with a letter or digit, so this is nobody's backup.
fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

fn unlink(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if !is_absent(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Below an ordinary file there is nothing either.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn read(path: &Path) -> Result<Option<Backup>, BackupError> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text).unwrap_or_default())),
        Err(error) if is_absent(&error) => Ok(None),
        Err(source) => Err(BackupError { verb: "read", path: path.to_owned(), source }),
    }
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
