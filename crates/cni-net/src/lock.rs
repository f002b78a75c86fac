//! Locks among the plugins of a node. All are on one file, and each ends with its holder: nothing is left behind.

use std::os::fd::OwnedFd;

use cni_plugin::{Owner, sha512_hex};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{self, FileType, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

/// In a directory where only root can make it, and readable by nobody else: whoever can open a file can lock it, and so
/// could stop every ADD. Anybody can open a namespace's.
const PATH: &str = "/run/cni-plugins.lock";
/// `NONBLOCK`: a FIFO in the file's place must not stop the plugin.
const FLAGS: OFlags =
    OFlags::RDWR.union(OFlags::CREATE).union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
/// Also what is asked of a file that is there already, with root as its owner.
const MODE: Mode = Mode::from_raw_mode(0o600);

/// The byte for all ports: behind those for attachments.
const PORTS: libc::off_t = 1 << 28;

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The file can't be made, opened or locked.
    #[error("cannot lock {PATH}: {0}")]
    System(#[from] Errno),
    /// Others could hold the lock as long as they like.
    #[error("{PATH} is not a file that only root can open: remove it")]
    OfOthers,
}

/// A lock, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: OwnedFd,
}

impl Lock {
    /// Waits until no bridge is being deleted. Any number of ADDs hold it at the same time.
    pub fn to_use_bridges() -> Result<Self, LockError> {
        Self::of_bridges(FlockOperation::LockShared)
    }

    /// Waits until no ADD is between looking for its bridge and becoming a port of it. The lock is that of all bridges of
    /// the node, for it is held for milliseconds.
    pub fn to_delete_bridges() -> Result<Self, LockError> {
        Self::of_bridges(FlockOperation::LockExclusive)
    }

    fn of_bridges(operation: FlockOperation) -> Result<Self, LockError> {
        let file = open()?;
        retry_on_intr(|| fs::flock(&file, operation))?;
        Ok(Self { _file: file })
    }

    /// Waits until nobody else holds the lock of this attachment: a byte of the file for each, which need not be there
    /// (fcntl(2), "Open file description locks"). It has nothing to do with the other kind of lock.
    pub fn of_attachment(owner: &Owner) -> Result<Self, LockError> {
        // Two attachments with the same byte wait for each other, and no more: 28 bits, for an offset has 31 on some
        // architectures.
        let byte = i32::from_str_radix(&sha512_hex(&[&owner.key()], 7), 16).unwrap_or_default();
        Self::of_byte(byte.into())
    }

    /// Waits until nobody else is publishing ports. Which of two that want the same one was first is seen in the rules, and
    /// only by the later one; with two families, or two packet filters, each could be the later one in one of them.
    pub fn of_ports() -> Result<Self, LockError> {
        Self::of_byte(PORTS)
    }

    fn of_byte(byte: libc::off_t) -> Result<Self, LockError> {
        let file = open()?;
        let range = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: byte,
            l_len: 1,
            l_pid: 0,
        };
        retry_on_intr(|| {
            fcntl(&file, FcntlArg::F_OFD_SETLKW(&range)).map_err(|errno| Errno::from_raw_os_error(errno as i32))
        })?;
        Ok(Self { _file: file })
    }
}

fn open() -> Result<OwnedFd, LockError> {
    let file = fs::open(PATH, FLAGS, MODE)?;
    let found = fs::fstat(&file)?;
    let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
    let others = Mode::from_raw_mode(found.st_mode).intersects(Mode::RWXG | Mode::RWXO);
    if !is_file || others || found.st_uid != rustix::process::geteuid().as_raw() {
        return Err(LockError::OfOthers);
    }
    Ok(file)
}
