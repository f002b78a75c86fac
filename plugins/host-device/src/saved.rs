//! What a device was before it was moved: a file for each attachment, from before the move until the device is back.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use cni_net::{Address, Link, NetError, Netlink};
use cni_plugin::state::{Entry, StateDir};
use cni_plugin::{Attachment, Held, IfName, MacAddr, NetworkName, Owner, deadline, lock_whole};
use ipnetwork::IpNetwork;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::settings::Selector;

/// Indexes and namespaces don't outlive a boot, and neither does this directory. Only root can open it.
const DIR: &str = "/run/cni/host-device";
const SUFFIX: &str = ".json";
/// More than any file of ours has, in bytes.
const LENGTH_MAX: u64 = 1024 * 1024;

/// Why the state can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// The kernel refused.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A file or the directory.
    #[error("cannot {verb} {path:?}: {source}")]
    File {
        /// `read`, `write`, …
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another call moves a device and doesn't end.
    #[error(transparent)]
    Held(#[from] Held),
}

/// A device as it was, and who has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Whose attachment.
    pub network: NetworkName,
    /// The container.
    pub container: String,
    /// What it is called in the container.
    pub ifname: IfName,
    /// The namespace that it is moved to.
    pub netns: PathBuf,
    /// Its name on the node.
    pub name: IfName,
    /// Its alias on the node.
    pub alias: String,
    /// It was up.
    pub up: bool,
    /// In bytes.
    pub mtu: u32,
    /// Its Ethernet address.
    pub mac: Option<MacAddr>,
    /// Its addresses, but those that come and go by themselves.
    pub addresses: Vec<IpNetwork>,
    /// It is hardware, which the kernel doesn't delete with a namespace.
    pub hardware: bool,
}

impl Saved {
    /// What is to be known of this link of the node before it goes to this attachment's container.
    pub fn of(host: &Netlink, link: &Link, attachment: &Attachment) -> Result<Self, SavedError> {
        let owner = &attachment.owner;
        // A name that the kernel takes and that isn't valid (a '%') can't be given back; the kernel has no such link.
        let name = link.name.parse().unwrap_or_else(|_| owner.ifname.clone());
        let stays = |address: &Address| address.permanent && !(address.link_local && address.network.is_ipv6());
        let addresses = host.addresses(link.index)?.into_iter().filter(stays).map(|address| address.network);
        Ok(Self {
            network: owner.network.clone(),
            container: owner.container_id.to_string(),
            ifname: owner.ifname.clone(),
            netns: attachment.netns.clone(),
            name,
            alias: link.alias.clone().unwrap_or_default(),
            up: link.up,
            mtu: link.mtu,
            mac: link.mac,
            addresses: addresses.collect(),
            hardware: link.kind.is_none(),
        })
    }

    /// True if the selector is of this device.
    fn is_selected(&self, selector: &Selector) -> bool {
        match selector {
            Selector::Name(name) => self.name.as_str() == name,
            Selector::Mac(mac) => self.mac == Some(*mac),
            _ => false,
        }
    }
}

/// Which container has the device that the selector asks for, for the end of a message; empty if none does.
pub fn held_by(selector: &Selector) -> String {
    let found = Store::open().ok().flatten().and_then(|store| {
        let keys = store.keys().ok()?;
        keys.iter().filter_map(|key| store.read(key).ok()?).find(|saved| saved.is_selected(selector))
    });
    found.map_or_else(String::new, |saved| {
        format!(
            ": container {} ({}) of network {} has it: DEL that first",
            saved.container, saved.ifname, saved.network
        )
    })
}

/// The directory, locked: calls that move devices take turns, for milliseconds each.
#[derive(Debug)]
pub struct Store {
    dir: StateDir,
    _lock: File,
}

impl Store {
    /// Makes and opens it.
    pub fn make() -> Result<Self, SavedError> {
        StateDir::make(DIR.as_ref(), 0o700).map_err(|source| failed("make", "", source))?;
        Self::open()?.ok_or_else(|| failed("open", "", io::ErrorKind::NotFound.into()))
    }

    /// Opens it; `None` if it isn't there.
    pub fn open() -> Result<Option<Self>, SavedError> {
        let dir = match StateDir::open(DIR.as_ref(), false) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
            opened => opened.map_err(|source| failed("open", "", source))?,
        };
        let Some(dir) = dir else { return Ok(None) };
        let lock = dir.fd().try_clone().map(File::from).map_err(|source| failed("open", "", source))?;
        let operation = FlockOperation::NonBlockingLockExclusive;
        lock_whole(&lock, dir.path(), "the moving of devices", operation, deadline::LOCK)
            .map_err(|errno| failed("lock", "", errno.into()))??;
        Ok(Some(Self { dir, _lock: lock }))
    }

    /// What was saved under the owner's key. `None` also for what isn't a file of ours.
    pub fn read(&self, owner_key: &str) -> Result<Option<Saved>, SavedError> {
        let name = file_name(owner_key);
        match self.dir.read(&name, LENGTH_MAX).map_err(|source| failed("read", &name, source))? {
            Entry::File(text) => Ok(serde_json::from_slice(&text).ok()),
            Entry::Absent | Entry::Other => Ok(None),
        }
    }

    /// Writes it, whole or not at all, readable by root only.
    pub fn write(&self, owner_key: &str, saved: &Saved) -> Result<(), SavedError> {
        let name = file_name(owner_key);
        let text = serde_json::to_vec(saved).map_err(io::Error::other);
        text.and_then(|text| self.dir.replace(&name, &text)).map_err(|source| failed("write", &name, source))
    }

    /// Removes it. Idempotent.
    pub fn remove(&self, owner_key: &str) -> Result<(), SavedError> {
        let name = file_name(owner_key);
        self.dir.remove_with_unfinished(&name).map_err(|source| failed("remove", &name, source))
    }

    /// The owners' keys of all files.
    fn keys(&self) -> Result<Vec<String>, SavedError> {
        let names = self.dir.names().map_err(|source| failed("list", "", source))?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(SUFFIX)).map(str::to_owned).collect())
    }

    /// The keys of the network's owners that are not among `valid`.
    pub fn stale(&self, network: &NetworkName, valid: &[Owner]) -> Result<Vec<String>, SavedError> {
        let of_network = Owner::network_key(network);
        let keep: Vec<String> = valid.iter().map(Owner::key).collect();
        let keys = self.keys()?.into_iter();
        Ok(keys.filter(|key| key.starts_with(&of_network) && !keep.contains(key)).collect())
    }
}

/// Fails if nothing could be saved. Leaves nothing behind.
pub fn probe() -> Result<(), SavedError> {
    let probed = match Store::open()? {
        Some(store) => store.dir.probe(),
        None => StateDir::probe_make(DIR.as_ref()),
    };
    probed.map_err(|source| failed("write", "", source))
}

fn file_name(owner_key: &str) -> String {
    format!("{owner_key}{SUFFIX}")
}

fn failed(verb: &'static str, name: &str, source: io::Error) -> SavedError {
    let dir = PathBuf::from(DIR);
    SavedError::File { verb, path: if name.is_empty() { dir } else { dir.join(name) }, source }
}
