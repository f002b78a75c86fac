//! A network's directory: its lock, and its files by name. Nothing here follows a symbolic link.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use cni_plugin::state::{self, Entry, StateDir};
use cni_plugin::{NetworkName, lock_whole};
use rustix::fs::{self, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::error::StoreError;

/// `NONBLOCK`: a FIFO planted in a file's place must not stop the plugin.
const FILE_FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
/// How long the lock is waited for, which is held for milliseconds: less than the plugin that called us waits for us.
const PATIENCE: Duration = Duration::from_secs(10);
/// Readable by root only: users of the node need not know who has which address.
const FILE_MODE: Mode = Mode::from_raw_mode(0o600);
/// No holder is longer: an environment variable has at most 128 KiB (`MAX_ARG_STRLEN`), so a container ID too.
const CONTENT_MAX: u64 = 192 * 1024;

/// Where the reservations of a network are.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) data_dir: PathBuf,
    pub(crate) network: NetworkName,
    /// Give up what was reserved before the node's last start.
    pub(crate) reclaim_after_reboot: bool,
}

/// The directory of a network's reservations, locked against every other host-local until dropped.
#[derive(Debug)]
pub(crate) struct NetworkDir {
    dir: StateDir,
    /// flock(2) on the same file that the Go plugin locks; closing it unlocks.
    _lock: Option<OwnedFd>,
}

impl Place {
    /// The network's directory.
    fn path(&self) -> PathBuf {
        self.data_dir.join(state::file_name(self.network.as_str(), ""))
    }
}

impl NetworkDir {
    /// Opens the network's directory and waits for its lock; `None` if there is none.
    pub(crate) fn open(place: &Place) -> Result<Option<Self>, StoreError> {
        Self::open_within(PATIENCE, place)
    }

    /// As [`NetworkDir::open`], with a limit for the wait.
    pub(crate) fn open_within(limit: Duration, place: &Place) -> Result<Option<Self>, StoreError> {
        let Some(dir) = Self::look(place)? else { return Ok(None) };
        let lock = dir.lock(limit)?;
        Ok(Some(Self { _lock: Some(lock), ..dir }))
    }

    /// Opens the network's directory without locking it: what is read may change at any moment.
    pub(crate) fn look(place: &Place) -> Result<Option<Self>, StoreError> {
        let path = place.path();
        match StateDir::open(&path, false) {
            Ok(dir) => Ok(dir.map(|dir| Self { dir, _lock: None })),
            // In the place of the directory of all networks stands a file: there is nothing in it.
            Err(error) if error.kind() == ErrorKind::NotADirectory && !place.data_dir.is_dir() => Ok(None),
            Err(source) => Err(StoreError::OpenDir { path, source }),
        }
    }

    /// As [`NetworkDir::open`], after creating what is missing, with mode 0755 as the Go plugin does.
    pub(crate) fn create(place: &Place) -> Result<Self, StoreError> {
        if let Some(dir) = Self::open(place)? {
            return Ok(dir);
        }
        let path = place.path();
        StateDir::make(&path, 0o755).map_err(|source| StoreError::CreateDir { path: path.clone(), source })?;
        Self::open(place)?.ok_or(StoreError::OpenDir { path, source: Errno::NOENT.into() })
    }

    fn lock(&self, limit: Duration) -> Result<OwnedFd, StoreError> {
        let failed = |source| StoreError::Lock { path: self.dir.path().to_owned(), source };
        let flags = FILE_FLAGS | OFlags::RDONLY | OFlags::CREATE;
        let file = fs::openat(self.dir.fd(), "lock", flags, FILE_MODE).map(File::from).map_err(failed)?;
        let (path, exclusive) = (self.path_of("lock"), FlockOperation::NonBlockingLockExclusive);
        lock_whole(&file, &path, "the directory of reservations (ipam.dataDir)", exclusive, limit)
            .map_err(failed)??;
        Ok(file.into())
    }

    /// The full path of a name, for messages.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.dir.path_of(name)
    }

    /// The open directory.
    pub(crate) fn fd(&self) -> &OwnedFd {
        self.dir.fd()
    }

    /// What stands under `name`.
    pub(crate) fn read(&self, name: &str) -> Result<Entry, StoreError> {
        self.dir.read(name, CONTENT_MAX).map_err(|source| StoreError::Read { path: self.path_of(name), source })
    }

    /// Makes `name` appear with all of its content at once. False if the name exists.
    pub(crate) fn create_file(&self, name: &str, content: &str) -> Result<bool, StoreError> {
        self.dir.create_file(name, content.as_bytes()).map_err(|source| self.not_written(name, source))
    }

    /// Overwrites a hint: see [`StateDir::overwrite`].
    pub(crate) fn overwrite(&self, name: &str, content: &str) -> Result<(), StoreError> {
        self.dir.overwrite(name, content.as_bytes()).map_err(|source| self.not_written(name, source))
    }

    fn not_written(&self, name: &str, source: io::Error) -> StoreError {
        StoreError::Write { path: self.path_of(name), source }
    }

    /// Removes `name`; false if it wasn't there.
    pub(crate) fn remove(&self, name: &str) -> Result<bool, StoreError> {
        self.dir.remove(name).map_err(|source| StoreError::Remove { path: self.path_of(name), source })
    }

    /// When `name` was last written, in seconds of the epoch; `None` if that is unknown.
    pub(crate) fn modified(&self, name: &str) -> Option<i64> {
        self.dir.modified(name)
    }

    /// The names of everything in the directory.
    pub(crate) fn names(&self) -> Result<Vec<String>, StoreError> {
        self.dir.names().map_err(|source| StoreError::List { path: self.dir.path().to_owned(), source })
    }

    /// Finds out whether a reservation could be written, without leaving anything behind.
    pub(crate) fn probe(&self) -> Result<(), StoreError> {
        self.dir.probe().map_err(|source| StoreError::Write { path: self.dir.path().to_owned(), source })
    }
}

/// Fails if the directory of a network that has none yet could not be created. Leaves nothing behind.
pub(crate) fn probe_create(place: &Place) -> Result<(), StoreError> {
    let path = place.path();
    StateDir::probe_make(&path).map_err(|source| StoreError::CreateDir { path, source })
}
