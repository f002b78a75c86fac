//! Where the daemon keeps its leases: a file an owner in a directory beside its socket, so that a restart loses none.
//!
//! `/run/cni/dhcp.sock` has `/run/cni/dhcp/OWNER.json` and `/run/cni/dhcp/lock`. They end with a reboot, as the containers do.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use cni_plugin::state::{Entry, StateDir};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::link::LinkId;
use super::{v4, v6};
use crate::wire::Wanted;

/// No lease's file is longer, in bytes.
const LONGEST: u64 = 1 << 20;
const SUFFIX: &str = ".json";
const LOCK: &str = "lock";

/// What is known of an owner's leases, as the file has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The owner, and the options for the server.
    pub wanted: Wanted,
    /// On which link; none until it has been found.
    pub link: Option<LinkId>,
    /// A lease has ended or was taken back, and the link was set down.
    pub is_lost: bool,
    /// The IPv4 lease.
    pub v4: Option<v4::Lease>,
    /// The IPv6 lease.
    pub v6: Option<v6::Lease>,
}

/// The directory of a socket's leases.
#[derive(Debug, Clone)]
pub struct Place {
    directory: PathBuf,
}

impl Place {
    /// The one beside this socket.
    pub fn of(socket: &Path) -> Self {
        let directory = match socket.extension() {
            Some(extension) if extension == "sock" => socket.with_extension(""),
            _ => PathBuf::from(format!("{}.leases", socket.display())),
        };
        Self { directory }
    }

    /// Its path.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Creates it, for root only. Idempotent.
    pub fn create(&self) -> io::Result<()> {
        StateDir::make(&self.directory, 0o700)
    }

    /// Opens it, if it is there.
    pub fn open(&self) -> io::Result<Option<StateDir>> {
        StateDir::open(&self.directory, false)
    }

    fn opened(&self) -> io::Result<StateDir> {
        self.open()?.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{:?} is gone", self.directory)))
    }

    /// The lock under which a daemon starts and ends.
    pub fn lock_path(&self) -> PathBuf {
        self.directory.join(LOCK)
    }

    /// Opens the lock's file.
    pub fn open_lock(&self) -> io::Result<File> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        Ok(File::from(rustix::fs::openat(self.opened()?.fd(), LOCK, flags, Mode::from_raw_mode(0o600))?))
    }

    /// True if there is a lease under a key that begins so.
    pub fn has_lease(&self, key: &str) -> io::Result<bool> {
        let Some(directory) = self.open()? else { return Ok(false) };
        Ok(directory.names()?.iter().any(|name| name.starts_with(key) && name.ends_with(SUFFIX)))
    }

    /// Writes what is known of an owner, whole or not at all.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        self.opened()?.replace(&name(record), &serde_json::to_vec(record)?)
    }

    /// Removes it. Idempotent.
    pub fn remove(&self, record: &Record) -> io::Result<()> {
        match self.open()? {
            Some(directory) => directory.remove_with_unfinished(&name(record)),
            None => Ok(()),
        }
    }

    /// All records. Files that can't be read belong to other programs, and stay.
    pub fn records(&self) -> io::Result<Vec<Record>> {
        let directory = self.opened()?;
        let read = |name: &String| match directory.read(name, LONGEST) {
            Ok(Entry::File(content)) => serde_json::from_slice(&content).ok(),
            _ => None,
        };
        Ok(directory.names()?.iter().filter(|name| name.ends_with(SUFFIX)).filter_map(read).collect())
    }
}

fn name(record: &Record) -> String {
    format!("{}{SUFFIX}", record.wanted.owner.owner().key())
}
