//! One ADD of ports after another. Which of two that want a port was first is seen in the rules, and only by the later
//! one; with two families each could be the later one in one of them.
//!
//! The nft variant of the tools has no lock, and the legacy variant's is a lock of each tool's own.

use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock, fstat, open};
use rustix::io::{Errno, Result};
use rustix::process::geteuid;

/// In a folder where only root can make it, and readable by nobody else: whoever can open a file can lock it.
const PATH: &str = "/run/cni-portmap.lock";

/// So long a turn is waited for: those in front wait for the xtables lock, or have been stopped.
const PATIENCE: Duration = Duration::from_secs(30);

/// The turn, until it is dropped. The tools don't inherit it.
pub(super) struct Turn {
    _file: Option<OwnedFd>,
}

impl Turn {
    /// Waits for it. Where there can be no lock, or it isn't given in time, everybody goes at once: that is right too, as
    /// long as nobody wants the same port.
    pub(super) fn wait() -> Self {
        Self { _file: file().ok().flatten().and_then(lock) }
    }
}

/// `None` if it is no file, or somebody else's. A FIFO in its place must not stop us.
fn file() -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = open(PATH, flags, Mode::RUSR | Mode::WUSR)?;
    let found = fstat(&file)?;
    let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
    let is_open = Mode::from_raw_mode(found.st_mode).intersects(Mode::RWXG | Mode::RWXO);
    Ok((is_file && !is_open && found.st_uid == geteuid().as_raw()).then_some(file))
}

fn lock(file: OwnedFd) -> Option<OwnedFd> {
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {}
        outcome => return outcome.is_ok().then_some(file),
    }
    // `flock` takes no deadline. A thread that gets the lock too late drops it.
    let (sender, receiver) = mpsc::channel();
    let wait = move || flock(&file, FlockOperation::LockExclusive).is_ok().then(|| sender.send(file).ok());
    thread::Builder::new().spawn(wait).ok()?;
    receiver.recv_timeout(PATIENCE).ok()
}
