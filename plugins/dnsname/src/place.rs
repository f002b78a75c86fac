//! Where the names are kept: a file an owner, `/run/cni/dnsname/NETWORK/OWNERKEY`. They end with a reboot, as the containers do.
//!
//! The resolver reads them as the user and group 65534, which are nobody's: the directories and files belong to root, and that group
//! may read them. Where there is no such group (a user namespace that doesn't map it), the resolver stays the namespace's root.

use std::fs::{DirEntry, File};
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cni_plugin::state::{self, Entry, StateDir};
use cni_plugin::{CniError, NetworkName, Owner, lock_whole};
use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::record::Record;

/// The directory.
pub const DIRECTORY: &str = "/run/cni/dnsname";
/// Held by the resolver while it runs.
pub const RUNNING: &str = "running";
/// Held by a call that changes something, and by a resolver that ends.
pub const LOCK: &str = ".lock";
/// The resolver's socket for the plugin.
pub const SOCKET: &str = ".socket";
/// The resolver's user and group: `nobody`, and `nogroup` or `nobody`, by number on every distribution.
pub const NOBODY: u32 = 65534;
/// No file is longer, in bytes.
pub const LONGEST: u64 = 1 << 20;
/// A directory's: the resolver's group may read it, and what is made in it is of that group too.
const DIRECTORY_MODE: u32 = 0o2750;
const FILE_MODE: u32 = 0o640;
/// How long another call may keep the lock: it waits for a resolver's start.
const LOCKED: Duration = Duration::from_secs(20);

/// The files.
#[derive(Debug, Clone)]
pub struct Place {
    path: PathBuf,
}

/// The lock of calls that change something, until it is dropped.
#[derive(Debug)]
pub struct Locked(#[allow(dead_code)] File); // held, never read

impl Place {
    /// The node's.
    pub fn new() -> Self {
        Self { path: PathBuf::from(DIRECTORY) }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The resolver's socket.
    pub fn socket(&self) -> PathBuf {
        self.path.join(SOCKET)
    }

    /// Creates the directory. Idempotent.
    pub fn create(&self) -> io::Result<()> {
        make(&self.path)
    }

    /// True if the directory is there.
    pub fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// Fails if the directory could not be made, or no file in it. Leaves nothing behind.
    pub fn probe(&self) -> io::Result<()> {
        match StateDir::open(&self.path, false)? {
            Some(directory) => directory.probe(),
            None => StateDir::probe_make(&self.path),
        }
    }

    /// Waits until no other call changes something and no resolver ends.
    pub fn lock(&self) -> Result<Locked, CniError> {
        let path = self.path.join(LOCK);
        let failed = |error: io::Error| CniError::plugin(format!("cannot lock {path:?}: {error}"));
        let file = open_lock(&path).map_err(failed)?;
        let operation = FlockOperation::NonBlockingLockExclusive;
        lock_whole(&file, &path, "the names of containers", operation, LOCKED)
            .map_err(|errno| failed(errno.into()))?
            .map_err(|held| CniError::plugin(held.to_string()))?;
        Ok(Locked(file))
    }

    /// What is known of an owner, if anything can be read.
    pub fn read(&self, owner: &Owner) -> io::Result<Option<Record>> {
        let Some(directory) = self.network(&owner.network)? else { return Ok(None) };
        match directory.read(&owner.key(), LONGEST)? {
            Entry::File(content) => Ok(serde_json::from_slice(&content).ok()),
            _ => Ok(None),
        }
    }

    /// Writes an owner's file, whole or not at all. Idempotent.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let path = self.path.join(directory_name(&record.network));
        make(&path)?;
        let gone = || io::Error::new(io::ErrorKind::NotFound, format!("{path:?} is gone"));
        let directory = StateDir::open(&path, false)?.ok_or_else(gone)?;
        directory.replace_with_mode(&record.owner().key(), &serde_json::to_vec(record)?, FILE_MODE)
    }

    /// Removes an owner's file, and the directory of a network without any other. Idempotent.
    pub fn remove(&self, owner: &Owner) -> io::Result<()> {
        let Some(directory) = self.network(&owner.network)? else { return Ok(()) };
        directory.remove_with_unfinished(&owner.key())?;
        self.remove_empty(&owner.network)
    }

    /// Removes the files of owners of `network` that are not in `valid`. Idempotent.
    pub fn retain(&self, network: &NetworkName, valid: &[Owner]) -> io::Result<()> {
        let Some(directory) = self.network(network)? else { return Ok(()) };
        let valid: Vec<String> = valid.iter().map(Owner::key).collect();
        let of_network = Owner::network_key(network);
        for name in directory.names()? {
            // What a killed call left unfinished is `.KEY.new`.
            let key = name.strip_prefix('.').and_then(|name| name.strip_suffix(".new")).unwrap_or(&name);
            let is_valid = valid.iter().any(|valid| valid == key);
            if key.starts_with(&of_network) && !is_valid && !is_of_another_node(&directory, key) {
                directory.remove_with_unfinished(key)?;
            }
        }
        self.remove_empty(network)
    }

    /// True if no owner of any network has a file.
    pub fn is_empty(&self) -> io::Result<bool> {
        match StateDir::open(&self.path, false)? {
            Some(directory) => Ok(directory.names()?.iter().all(|name| !is_network(&self.path, name))),
            None => Ok(true),
        }
    }

    fn network(&self, network: &NetworkName) -> io::Result<Option<StateDir>> {
        StateDir::open(&self.path.join(directory_name(network)), false)
    }

    /// Removes the directory of a network without files of owners. Names of other nodes are for those: they go too.
    fn remove_empty(&self, network: &NetworkName) -> io::Result<()> {
        let path = self.path.join(directory_name(network));
        if let Some(directory) = self.network(network)? {
            // One by one: the first file is an owner's as a rule, and the others need not be listed.
            let is_others = |entry: io::Result<DirEntry>| {
                entry.is_ok_and(|entry| {
                    entry.file_name().to_str().is_some_and(|name| is_of_another_node(&directory, name))
                })
            };
            if std::fs::read_dir(&path)?.all(is_others) {
                directory.names()?.iter().try_for_each(|name| directory.remove_with_unfinished(name))?;
            }
        }
        match std::fs::remove_dir(path) {
            Err(error)
                if error.kind() != io::ErrorKind::DirectoryNotEmpty && error.kind() != io::ErrorKind::NotFound =>
            {
                Err(error)
            }
            _ => Ok(()),
        }
    }
}

/// True for the file of another node's container, which cni-noded has written and removes.
fn is_of_another_node(directory: &StateDir, key: &str) -> bool {
    let Ok(Entry::File(content)) = directory.read(key, LONGEST) else { return false };
    serde_json::from_slice::<serde_json::Value>(&content).is_ok_and(|record| record.get("node").is_some())
}

/// The directory of a network. `~`, which no network's name has, tells one that is called as the lock from the lock.
pub fn directory_name(network: &NetworkName) -> String {
    if network.as_str() == RUNNING { format!("{RUNNING}~") } else { state::file_name(network.as_str(), "") }
}

/// True if a network has its files under this name.
pub fn is_network(path: &Path, name: &str) -> bool {
    !name.starts_with('.') && name != RUNNING && path.join(name).is_dir()
}

/// Opens a lock's file, which only root can open.
pub fn open_lock(path: &Path) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    Ok(File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?))
}

fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    StateDir::make(path, 0o755)?;
    // `EINVAL`: a user namespace without that group.
    let owned = match chown(path, None, Some(NOBODY)) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => Ok(()),
        outcome => outcome,
    };
    owned.and_then(|()| Ok(rustix::fs::chmod(path, Mode::from_raw_mode(DIRECTORY_MODE))?))
}
