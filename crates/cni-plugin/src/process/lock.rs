//! Locks among the plugins of a node. All but host-local's are on one file. The kernel releases a lock when its last holder
//! ends, so that none is left behind.
//!
//! The tools and plugins that a killed plugin has started run on, and their effects would come after the DEL that cleans up. So
//! a lock is two ranges of bytes: an exclusive one that the plugin alone holds, and an inherited one whose file description all its
//! children have too. Where the second is held and the first is not, only such orphans are left: they are waited for, then
//! killed.

use std::convert::Infallible;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{self, off_t};
use rustix::fs::{self, FileType, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, FdFlags};

use crate::process::child;
use crate::process::deadline::{self, Polling};
use crate::process::procfs::{Kind, Process};
use crate::process::undo::Undo;
use crate::protocol::names::{ContainerId, NetworkName};
use crate::protocol::owner::{Owner, sha512_hex};

/// In a directory where only root can create it, and readable by root only: a user who can open a file can lock it, and so
/// could block every ADD. A namespace's file would not do: every user can open that.
const PATH: &str = "/run/cni-plugins.lock";
/// `NONBLOCK`: a FIFO in the file's place must not stop the plugin.
const FLAGS: OFlags =
    OFlags::RDWR.union(OFlags::CREATE).union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
/// Also what is asked of a file that is there already, with root as its owner.
const MODE: Mode = Mode::from_raw_mode(0o600);
/// How long orphans may run on before they are killed. A tool's transaction takes milliseconds, or seconds on a node with many
/// rules.
const ORPHANS: Duration = Duration::from_secs(5);

/// How long the deletion of a shared link waits. After that the link stays, until the next DEL finds it unused.
const SHARED_LINK_DELETION: Duration = Duration::from_secs(5);

// The bytes of the file that locks are on; they need not exist (fcntl(2), "Open file description locks"). Of each area, `length`
// exclusive bytes come first, then as many inherited ones. All fit 31 bits, as an offset does on some architectures.
/// Attachments: 10 bits of the network's hash, 19 of the owner's. Two attachments with the same byte wait for each other; that
/// is the only consequence.
const ATTACHMENTS: Area = Area { start: 0, length: 1 << 29 };
const OWNERS: off_t = 1 << 19;
/// Ports: 8 bits of protocol number, 16 of port.
const PORTS: Area = Area { start: 1 << 30, length: 1 << 24 };
/// Turns at a packet filter.
const TURNS: Area = Area { start: (1 << 30) + (1 << 26), length: 16 };
/// The most port ranges that are locked one by one.
const RANGES_MAX: usize = 64;

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
    fn exclusive(self, Bytes { first, length }: Bytes) -> Bytes {
        Bytes { first: self.start + first, length }
    }

    fn inherited(self, Bytes { first, length }: Bytes) -> Bytes {
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
    /// The node's VXLAN devices, and what follows from them.
    Vxlan,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The file can't be made, opened or locked.
    #[error("cannot lock {PATH}: {0}")]
    System(#[from] Errno),
    /// Another user could hold the lock.
    #[error("{PATH} is accessible to other users; expected a regular file with mode 0600, owner root: remove it")]
    OfOthers,
    /// Another process has held it for longer than we wait.
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
    let Some(first) = holders.first() else {
        return "by a process that /proc does not list, such as one of another PID namespace".to_owned();
    };
    let names: Vec<String> = holders.iter().map(ToString::to_string).collect();
    let way_out = if first.is_stopped() {
        ", which is stopped: continue it (kill -CONT) or end it"
    } else {
        ": try again, or end it if it hangs"
    };
    format!("by {}{way_out}", names.join(" and "))
}

/// The file descriptions of [`Lock::inherited`]s.
static INHERITED: Mutex<Vec<Weak<File>>> = Mutex::new(Vec::new());

/// A lock, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    /// Its file description is inherited by children.
    inherited: Option<Arc<File>>,
    _exclusive: File,
}

impl Lock {
    /// Waits until no link of the node that attachments share (a bridge, a shim, a made VLAN) is being deleted. Any number of ADDs
    /// hold it at the same time.
    pub fn to_use_shared_links() -> Result<Self, LockError> {
        Self::of_shared_links(FlockOperation::NonBlockingLockShared, deadline::LOCK)
    }

    /// Waits until no ADD is between looking for such a link and being a user of it. The lock is that of all such links of
    /// the node, for it is held for milliseconds, and over nothing that can hang.
    pub fn to_delete_shared_links() -> Result<Self, LockError> {
        Self::of_shared_links(FlockOperation::NonBlockingLockExclusive, SHARED_LINK_DELETION)
    }

    fn of_shared_links(operation: FlockOperation, limit: Duration) -> Result<Self, LockError> {
        let file = open()?;
        lock_whole(&file, Path::new(PATH), "the use of shared links", operation, limit)??;
        Ok(Self { inherited: None, _exclusive: file })
    }

    /// Waits until no other call for this attachment runs, nor any process that a killed call has left. A call that starts
    /// processes for an attachment holds this lock meanwhile.
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

    /// Waits until no other call publishes one of these ports, by the numbers of their protocols. Which of two calls for the same
    /// port was first is seen in the rules, and only by the later one; with two address families, or two packet filters,
    /// each could be the later one in one of them.
    pub fn of_ports(ports: impl IntoIterator<Item = (u8, u16)>) -> Result<Self, LockError> {
        Self::of_bytes(PORTS, &port_ranges(ports), "host ports")
    }

    /// Waits for the turn.
    pub fn of_turn(turn: Turn) -> Result<Self, LockError> {
        let (byte, what) = match turn {
            Turn::IptablesSkeleton { ipv6: false } => (0, "the rules that all ports share in iptables"),
            Turn::IptablesSkeleton { ipv6: true } => (1, "the rules that all ports share in ip6tables"),
            Turn::NftablesPorts => (2, "the ports in nftables"),
            Turn::Vxlan => (3, "the node's VXLAN devices"),
        };
        Self::of_bytes(TURNS, &[Bytes::one(byte)], what)
    }

    /// The lock, or `None` where the file can't be used. That another process keeps the lock stays an error.
    pub fn if_possible(locked: Result<Self, LockError>) -> Result<Option<Self>, LockError> {
        match locked {
            Err(LockError::System(_) | LockError::OfOthers) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Waits for the orphans of killed calls for attachments of `network`, and kills those that run on. Does not wait for calls
    /// that are alive. Returns at once where no call was killed and where the file can't be used.
    pub fn settle_orphans(network: &NetworkName) -> Result<(), LockError> {
        let Ok(file) = open() else { return Ok(()) };
        let first = network_number(network) * OWNERS;
        let mut from = first;
        while from < first + OWNERS {
            let rest = Bytes { first: from, length: first + OWNERS - from };
            let Some(found) = conflict(&file, ATTACHMENTS.inherited(rest))? else { break };
            let byte = (found - ATTACHMENTS.start - ATTACHMENTS.length).max(from);
            if conflict(&file, ATTACHMENTS.exclusive(Bytes::one(byte)))?.is_none() {
                let what = format!("an attachment of network {network}");
                lock_inherited(&file, ATTACHMENTS.inherited(Bytes::one(byte)), &what)?;
            }
            from = byte + 1;
        }
        Ok(())
    }

    fn of_bytes(area: Area, bytes: &[Bytes], what: &str) -> Result<Self, LockError> {
        let (exclusive, inherited) = (open()?, open()?);
        for bytes in bytes {
            lock_exclusive(&exclusive, area.exclusive(*bytes), what)?;
        }
        for bytes in bytes {
            lock_inherited(&inherited, area.inherited(*bytes), what)?;
        }
        // Without close-on-exec each child that is started from now on has it too.
        rustix::io::fcntl_setfd(&inherited, FdFlags::empty())?;
        let inherited = Arc::new(inherited);
        INHERITED.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&inherited));
        Ok(Self { inherited: Some(inherited), _exclusive: exclusive })
    }
}

/// Lets children inherit the locks again, after all descriptors got close-on-exec for one that must not.
pub(crate) fn let_children_inherit() {
    for file in INHERITED.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade) {
        // The descriptor is open, which is all that fcntl(2) asks for.
        let _ = rustix::io::fcntl_setfd(&file, FdFlags::empty());
    }
}

/// Unlocks for the children too: the plugin has waited for all of its own, and what is left are daemons that another plugin
/// started. Not if a child could not be killed.
impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(file) = self.inherited.take().filter(|_| !child::any_abandoned()) {
            let _ = set(&file, Bytes { first: 0, length: 0 }, libc::F_UNLCK);
        }
    }
}

fn lock_exclusive(file: &File, bytes: Bytes, what: &str) -> Result<(), LockError> {
    let polling = Polling::new(deadline::LOCK);
    while !set(file, bytes, libc::F_WRLCK)? {
        if !polling.pause() {
            return Err(Held::new(what, (file, Path::new(PATH)), bytes.kind(), polling.waited()).into());
        }
    }
    Ok(())
}

/// To be called with the exclusive range locked: what holds this one then has lost its plugin.
fn lock_inherited(file: &File, bytes: Bytes, what: &str) -> Result<(), LockError> {
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
        eprintln!("left running by a killed call, now killed: {orphan}");
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

/// The processes that have a flock(2) on the file at `path`, in words; empty if none is visible.
pub fn holders_of(path: &Path) -> String {
    let holders = File::open(path).map(|file| Process::holding(&file, path, Kind::Whole)).unwrap_or_default();
    holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// Locks or unlocks; false if another process has a lock there.
fn set(file: &File, bytes: Bytes, kind: libc::c_int) -> Result<bool, Errno> {
    let range = range(bytes, kind);
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range)).map_err(|error| Errno::from_raw_os_error(error as i32)) {
        Ok(_) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS | Errno::INTR) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where the first lock begins that another process has there.
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

/// The ports in as few ranges as possible, in ascending order, in which all calls lock them, so that no two wait for each other.
/// Where there are too many ranges, one for each protocol.
fn port_ranges(ports: impl IntoIterator<Item = (u8, u16)>) -> Vec<Bytes> {
    let byte = |(protocol, port): (u8, u16)| (off_t::from(protocol) << 16) + off_t::from(port);
    let mut bytes: Vec<off_t> = ports.into_iter().map(byte).collect();
    bytes.sort_unstable();
    let join = |gap: off_t| {
        let mut ranges: Vec<Bytes> = Vec::new();
        for byte in &bytes {
            match ranges.last_mut() {
                Some(range) if byte - (range.first + range.length) < gap && byte >> 16 == range.first >> 16 => {
                    range.length = byte + 1 - range.first;
                }
                _ => ranges.push(Bytes::one(*byte)),
            }
        }
        ranges
    };
    let ranges = join(1);
    if ranges.len() > RANGES_MAX { join(1 << 16) } else { ranges }
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
    fn ports_are_locked_in_ranges() {
        let tcp = |port| (6, port);
        let range = |first: off_t, length| Bytes { first: (6 << 16) + first, length };
        assert_eq!(port_ranges([tcp(82), tcp(80), tcp(81), tcp(90)]), [range(80, 3), range(90, 1)]);
        assert_eq!(port_ranges([tcp(80), tcp(80)]), [range(80, 1)]);
        assert_eq!(port_ranges([(6, 65535), (7, 0)]).len(), 2);
        let scattered = (0..200u16).map(|n| tcp(n * 2));
        assert_eq!(port_ranges(scattered), [range(0, 399)]);
        assert_eq!(port_ranges([]), []);
    }

    #[test]
    fn areas_do_not_overlap() {
        let end = |area: Area| area.start + 2 * area.length;
        assert!(end(ATTACHMENTS) <= PORTS.start && end(PORTS) <= TURNS.start && end(TURNS) < off_t::from(i32::MAX));
    }
}
