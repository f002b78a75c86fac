//! Locks among the plugins of a node. All but host-local's are on one file, and each ends with its holders: nothing is left
//! behind.
//!
//! A plugin that is killed leaves the tools and plugins that it started at work, and what they do would come after the DEL
//! that cleans up behind it. So a lock is two: one that the plugin alone has, and one whose file description all its children
//! inherit. Where the second is held and the first is not, only such orphans are left: they are waited for, then ended.

use std::convert::Infallible;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{self, off_t};
use rustix::fs::{self, FileType, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, FdFlags};

use crate::child;
use crate::deadline::{self, Polling};
use crate::holder::{Kind, Process};
use crate::names::{ContainerId, NetworkName};
use crate::owner::{Owner, sha512_hex};
use crate::undo::Undo;

/// In a directory where only root can make it, and readable by nobody else: who can open a file can lock it, and so
/// could stop every ADD. Anybody can open a namespace's.
const PATH: &str = "/run/cni-plugins.lock";
/// `NONBLOCK`: a FIFO in the file's place must not stop the plugin.
const FLAGS: OFlags =
    OFlags::RDWR.union(OFlags::CREATE).union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
/// Also what is asked of a file that is there already, with root as its owner.
const MODE: Mode = Mode::from_raw_mode(0o600);
/// How long orphans may go on before they are ended. A tool's transaction takes milliseconds, or seconds on a node with many
/// rules.
const ORPHANS: Duration = Duration::from_secs(5);

/// How long a deletion waits, which may as well be left to the next one.
const BRIDGE_DELETION: Duration = Duration::from_secs(5);

// The bytes of the file, which need not be there (fcntl(2), "Open file description locks"): of each lock first those that the
// plugin alone has, then those for its children. All fit 31 bits, as an offset does on some architectures.
/// Attachments: 10 bits say the network, 19 the owner. Two with the same byte wait for each other, and no more.
const ATTACHMENTS: Area = Area { start: 0, length: 1 << 29 };
const OWNERS: off_t = 1 << 19;
/// Ports: 8 bits say the protocol, 16 the port.
const PORTS: Area = Area { start: 1 << 30, length: 1 << 24 };
/// Turns at a packet filter.
const TURNS: Area = Area { start: (1 << 30) + (1 << 26), length: 16 };
/// The most runs of ports that are locked one by one.
const RUNS: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Area {
    start: off_t,
    length: off_t,
}

/// Some bytes of an area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Bytes {
    first: off_t,
    length: off_t,
}

impl Area {
    fn own(self, Bytes { first, length }: Bytes) -> Bytes {
        Bytes { first: self.start + first, length }
    }

    fn childrens(self, Bytes { first, length }: Bytes) -> Bytes {
        Bytes { first: self.start + self.length + first, length }
    }
}

impl Bytes {
    fn one(first: off_t) -> Self {
        Self { first, length: 1 }
    }

    fn kind(self) -> Kind {
        let number = |offset| u64::try_from(offset).unwrap_or_default();
        Kind::Bytes(number(self.first), number(self.first + self.length - 1))
    }
}

/// What is changed in turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The chains and rules that all ports share, in iptables or ip6tables.
    IptablesSkeleton {
        /// ip6tables.
        ipv6: bool,
    },
    /// The ports in nftables.
    NftablesPorts,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The file can't be made, opened or locked.
    #[error("cannot lock {PATH}: {0}")]
    System(#[from] Errno),
    /// Others could hold the lock as long as they like.
    #[error("{PATH} is not a file that only root can open: remove it")]
    OfOthers,
    /// Another process has it all the time.
    #[error(transparent)]
    Held(#[from] Held),
}

/// A lock that another process has had for longer than we wait.
#[derive(Debug, thiserror::Error)]
#[error("{} ({}) has been locked for {} s {}", .0.what, .0.path.display(), .0.seconds, by(&.0.holders))]
pub struct Held(Box<HeldLock>);

#[derive(Debug)]
struct HeldLock {
    what: String,
    path: PathBuf,
    seconds: u64,
    holders: Vec<Process>,
}

impl Held {
    fn new(what: &str, (file, path): (&File, &Path), kind: Kind, waited: Duration) -> Self {
        let holders = Process::holding(file, path, kind);
        Self(Box::new(HeldLock { what: what.to_owned(), path: path.to_owned(), seconds: waited.as_secs(), holders }))
    }

    /// True if a call for this container has the lock, or if the holder isn't visible.
    pub fn is_by(&self, container: &ContainerId) -> bool {
        self.0.holders.is_empty() || self.0.holders.iter().any(|holder| holder.is_call_for(container.as_str()))
    }
}

fn by(holders: &[Process]) -> String {
    let Some(first) = holders.first() else { return "by a process that is not visible from here".to_owned() };
    let names: Vec<String> = holders.iter().map(ToString::to_string).collect();
    let way_out = if first.is_stopped() {
        "which is stopped: let it go on (kill -CONT), or end it"
    } else {
        "try again, or end it if it hangs"
    };
    format!("by {}: {way_out}", names.join(" and "))
}

/// A lock, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    /// Inherited by children.
    childrens: Option<File>,
    _own: File,
}

impl Lock {
    /// Waits until no bridge is being deleted. Any number of ADDs hold it at the same time.
    pub fn to_use_bridges() -> Result<Self, LockError> {
        Self::of_bridges(FlockOperation::NonBlockingLockShared, deadline::LOCK)
    }

    /// Waits until no ADD is between looking for its bridge and becoming a port of it. The lock is that of all bridges of
    /// the node, for it is held for milliseconds, and over nothing that can hang.
    pub fn to_delete_bridges() -> Result<Self, LockError> {
        Self::of_bridges(FlockOperation::NonBlockingLockExclusive, BRIDGE_DELETION)
    }

    fn of_bridges(operation: FlockOperation, limit: Duration) -> Result<Self, LockError> {
        let file = open()?;
        lock_whole(&file, Path::new(PATH), "the use of bridges", operation, limit)??;
        Ok(Self { childrens: None, _own: file })
    }

    /// Waits until no other call for this attachment is at work, nor anything that a killed one has left. Whatever starts
    /// processes for an attachment holds this meanwhile.
    pub fn of_attachment(owner: &Owner) -> Result<Self, LockError> {
        let first = network_number(&owner.network) * OWNERS + number(&owner.key(), OWNERS);
        Self::of_bytes(ATTACHMENTS, &[Bytes::one(first)], &owner.to_string())
    }

    /// The lock of the attachment for an ADD, if there can be one, until nothing has to be taken back any more: pushed to
    /// `undo` first, it is released last.
    pub fn hold_attachment(owner: &Owner, undo: &mut Undo) -> Result<(), LockError> {
        if let Some(lock) = Self::if_possible(Self::of_attachment(owner))? {
            undo.push("the attachment's lock", move || {
                drop(lock);
                Ok::<(), Infallible>(())
            });
        }
        Ok(())
    }

    /// Waits until nobody else is publishing one of these ports, by the numbers of their protocols. Which of two that want
    /// the same one was first is seen in the rules, and only by the later one; with two families, or two packet filters,
    /// each could be the later one in one of them.
    pub fn of_ports(ports: impl IntoIterator<Item = (u8, u16)>) -> Result<Self, LockError> {
        Self::of_bytes(PORTS, &runs(ports), "host ports")
    }

    /// Waits for the turn.
    pub fn of_turn(turn: Turn) -> Result<Self, LockError> {
        let (byte, what) = match turn {
            Turn::IptablesSkeleton { ipv6: false } => (0, "the rules that all ports share in iptables"),
            Turn::IptablesSkeleton { ipv6: true } => (1, "the rules that all ports share in ip6tables"),
            Turn::NftablesPorts => (2, "the ports in nftables"),
        };
        Self::of_bytes(TURNS, &[Bytes::one(byte)], what)
    }

    /// The lock where one can be had: `None` where the file can't be used. Another process that doesn't let go of it is an
    /// error.
    pub fn if_possible(locked: Result<Self, LockError>) -> Result<Option<Self>, LockError> {
        match locked {
            Err(LockError::System(_) | LockError::OfOthers) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Waits for what killed calls for attachments of `network` have left at work, or ends it. Calls that are alive are not
    /// waited for. Without a killed call, and where there is no lock, nothing is waited for.
    pub fn settle_orphans(network: &NetworkName) -> Result<(), LockError> {
        let Ok(file) = open() else { return Ok(()) };
        let first = network_number(network) * OWNERS;
        let mut from = first;
        while from < first + OWNERS {
            let rest = Bytes { first: from, length: first + OWNERS - from };
            let Some(found) = conflict(&file, ATTACHMENTS.childrens(rest))? else { break };
            let byte = (found - ATTACHMENTS.start - ATTACHMENTS.length).max(from);
            if conflict(&file, ATTACHMENTS.own(Bytes::one(byte)))?.is_none() {
                let what = format!("an attachment of network {network}");
                lock_childrens(&file, ATTACHMENTS.childrens(Bytes::one(byte)), &what)?;
            }
            from = byte + 1;
        }
        Ok(())
    }

    fn of_bytes(area: Area, bytes: &[Bytes], what: &str) -> Result<Self, LockError> {
        let (own, childrens) = (open()?, open()?);
        for bytes in bytes {
            lock_own(&own, area.own(*bytes), what)?;
        }
        for bytes in bytes {
            lock_childrens(&childrens, area.childrens(*bytes), what)?;
        }
        // From now on each child has it too.
        rustix::io::fcntl_setfd(&childrens, FdFlags::empty())?;
        Ok(Self { childrens: Some(childrens), _own: own })
    }
}

/// Unlocks for the children too: those that are left have been waited for, and are another plugin's daemons. Unless one
/// could not be ended.
impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(file) = self.childrens.take().filter(|_| !child::any_abandoned()) {
            let _ = set(&file, Bytes { first: 0, length: 0 }, libc::F_UNLCK);
        }
    }
}

fn lock_own(file: &File, bytes: Bytes, what: &str) -> Result<(), LockError> {
    let polling = Polling::new(deadline::LOCK);
    while !set(file, bytes, libc::F_WRLCK)? {
        if !polling.pause() {
            return Err(Held::new(what, (file, Path::new(PATH)), bytes.kind(), polling.waited()).into());
        }
    }
    Ok(())
}

/// The plugin's own lock is held, so that what holds this one has lost its plugin.
fn lock_childrens(file: &File, bytes: Bytes, what: &str) -> Result<(), LockError> {
    let (polling, path) = (Polling::new(deadline::LOCK), Path::new(PATH));
    let patience = ORPHANS.min(deadline::at_most(deadline::LOCK) / 2);
    let mut ended = false;
    while !set(file, bytes, libc::F_WRLCK)? {
        if polling.waited() >= patience && !ended {
            end_orphans(file, path, bytes.kind());
            ended = true;
        }
        if !polling.pause() {
            return Err(Held::new(what, (file, path), bytes.kind(), polling.waited()).into());
        }
    }
    Ok(())
}

fn end_orphans(file: &File, path: &Path, kind: Kind) {
    let Ok(found) = file.metadata() else { return };
    for orphan in Process::holding(file, path, kind) {
        eprintln!("left at work by a killed call, and ended: {orphan}");
        orphan.kill_if(|orphan| orphan.holds((found.dev(), found.ino()), path, kind));
    }
}

/// Waits for a flock(2) of a whole file; `what` and `path` are for the error.
pub fn lock_whole(
    file: &File,
    path: &Path,
    what: &str,
    operation: FlockOperation,
    limit: Duration,
) -> Result<Result<(), Held>, Errno> {
    let polling = Polling::new(limit);
    loop {
        match fs::flock(file, operation) {
            Ok(()) => return Ok(Ok(())),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if polling.pause() => {}
            Err(Errno::WOULDBLOCK) => {
                return Ok(Err(Held::new(what, (file, path), Kind::Whole, polling.waited())));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Who has a flock(2) on the file at `path`, in words; empty if that can't be seen.
pub fn holders_of(path: &Path) -> String {
    let holders = File::open(path).map(|file| Process::holding(&file, path, Kind::Whole)).unwrap_or_default();
    holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// Locks or unlocks; false if another has a lock there.
fn set(file: &File, bytes: Bytes, kind: libc::c_int) -> Result<bool, Errno> {
    let range = range(bytes, kind);
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range)).map_err(|error| Errno::from_raw_os_error(error as i32)) {
        Ok(_) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS | Errno::INTR) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where the first lock begins that another has there.
fn conflict(file: &File, bytes: Bytes) -> Result<Option<off_t>, Errno> {
    let mut range = range(bytes, libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut range)).map_err(|error| Errno::from_raw_os_error(error as i32))?;
    let free = libc::c_int::from(range.l_type) == libc::F_UNLCK;
    Ok((!free).then_some(range.l_start))
}

fn range(bytes: Bytes, kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: bytes.first,
        l_len: bytes.length,
        l_pid: 0,
    }
}

fn network_number(network: &NetworkName) -> off_t {
    number(&Owner::network_key(network), ATTACHMENTS.length / OWNERS)
}

fn number(text: &str, below: off_t) -> off_t {
    off_t::from(i32::from_str_radix(&sha512_hex(&[text], 7), 16).unwrap_or_default()) % below
}

/// The ports in as few runs as can be, in the order in which everybody locks them; too many are one for each protocol.
fn runs(ports: impl IntoIterator<Item = (u8, u16)>) -> Vec<Bytes> {
    let byte = |(protocol, port): (u8, u16)| (off_t::from(protocol) << 16) + off_t::from(port);
    let mut bytes: Vec<off_t> = ports.into_iter().map(byte).collect();
    bytes.sort_unstable();
    let join = |gap: off_t| {
        let mut runs: Vec<Bytes> = Vec::new();
        for byte in &bytes {
            match runs.last_mut() {
                Some(run) if byte - (run.first + run.length) < gap && byte >> 16 == run.first >> 16 => {
                    run.length = byte + 1 - run.first;
                }
                _ => runs.push(Bytes::one(*byte)),
            }
        }
        runs
    };
    let runs = join(1);
    if runs.len() > RUNS { join(1 << 16) } else { runs }
}

fn open() -> Result<File, LockError> {
    let file: OwnedFd = fs::open(PATH, FLAGS, MODE)?;
    let found = fs::fstat(&file)?;
    let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
    let others = Mode::from_raw_mode(found.st_mode).intersects(Mode::RWXG | Mode::RWXO);
    if !is_file || others || found.st_uid != rustix::process::geteuid().as_raw() {
        return Err(LockError::OfOthers);
    }
    Ok(File::from(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_locked_in_runs() {
        let tcp = |port| (6, port);
        let run = |first: off_t, length| Bytes { first: (6 << 16) + first, length };
        assert_eq!(runs([tcp(82), tcp(80), tcp(81), tcp(90)]), [run(80, 3), run(90, 1)]);
        assert_eq!(runs([tcp(80), tcp(80)]), [run(80, 1)]);
        assert_eq!(runs([(6, 65535), (7, 0)]).len(), 2);
        let scattered = (0..200u16).map(|n| tcp(n * 2));
        assert_eq!(runs(scattered), [run(0, 399)]);
        assert_eq!(runs([]), []);
    }

    #[test]
    fn areas_do_not_overlap() {
        let end = |area: Area| area.start + 2 * area.length;
        assert!(end(ATTACHMENTS) <= PORTS.start && end(PORTS) <= TURNS.start && end(TURNS) < off_t::from(i32::MAX));
    }
}
