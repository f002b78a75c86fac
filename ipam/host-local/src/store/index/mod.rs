//! The cache beside the reservations: which addresses a holder has, and which comes next, at a cost that doesn't depend on the
//! number of reservations.
//!
//! The files are authoritative. The index is valid only while the directory's modification time is the one that was set
//! after the index had been written: a moment in the past, which no creation, removal or renaming can give the directory again
//! (those set it to the present). After a kill between two steps, a call of the Go plugin or a change by hand the time is
//! another one. And it is valid only in the boot that it was written in, because a power cut may have emptied files.
//!
//! The file, whose numbers are big-endian and of 64 bits:
//!
//! ```text
//!   0  "hl-idx01"
//!   8  slots of the table, 16 those in use
//!  24  the directory's modification time in seconds, 32 nanoseconds, 40 the directory's inode
//!  48  when the files were read, in seconds of the epoch
//!  64  the boot's ID (/proc/sys/kernel/random/boot_id), as text
//! 128  the hash table (`table`): which addresses are taken (`bitmap`), and which of them a holder has
//! ```
//!
//! A format of our own, as measured (open, look-up, two changes, close; 60 000 holders): redb 4.4 without fsync 0.31 ms and a
//! file of 17 MB, this 0.04 ms and 11 MB. LMDB maps its file into memory, which needs `unsafe` and dies of SIGBUS on a
//! full disk.

mod bitmap;
mod table;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use cni_plugin::sha512_hex;
use cni_plugin::state::file_name;
use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps};

use super::directory::Place;
use super::holder::Holder;
use super::scan::Scan;
use crate::pool::Address;
use table::{Table, VALUE, corrupt};

/// Beside the networks' directories, under a name that no network can have: there it never changes a directory's
/// modification time, and the Go plugin, which reads all files of a network on every call, doesn't read it.
const DIR: &str = ".host-local";
const MAGIC: &[u8; 8] = b"hl-idx01";
const HEADER: usize = 128;
/// The table's kind for what a holder has; the kinds below are [`bitmap`].
const HOLDINGS: u8 = 0x80;
/// Addresses in a record of holdings. A holder of more has several records.
const PER_RECORD: usize = VALUE / 16;
/// An unused place in a record of holdings.
const NONE: u128 = u128::MAX;

/// A valid index.
#[derive(Debug)]
pub(super) struct Index {
    table: Table<File>,
    boot: String,
    /// When the files were read that it was made of, in seconds of the epoch.
    built: u64,
    changed: bool,
    /// What the holder that was changed last has: a holder of thousands of addresses gets and loses them in one call.
    known: Option<(String, Vec<Address>)>,
}

/// What was found in the index's place.
pub(super) enum Found {
    Valid(Index),
    /// No valid index.
    Stale {
        /// True if it was last written since the node started.
        this_boot: bool,
    },
}

impl Index {
    /// Opens the index of the network whose directory is `dir`, if it is valid.
    pub(super) fn open(place: &Place, dir: &OwnedFd) -> Found {
        Self::read(place, dir).unwrap_or(Found::Stale { this_boot: false })
    }

    fn read(place: &Place, dir: &OwnedFd) -> io::Result<Found> {
        let file = File::from(open_file(place, OFlags::empty())?);
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0)?;
        let boot = boot_id()?;
        let this_boot = header[64..64 + boot.len()] == *boot.as_bytes();
        if header[..8] != *MAGIC || !this_boot || header[24..48] != fingerprint(dir)? {
            return Ok(Found::Stale { this_boot });
        }
        let table = Table::existing(file, HEADER as u64, number(&header, 8), number(&header, 16))?;
        Ok(Found::Valid(Self { table, boot, built: number(&header, 48), changed: false, known: None }))
    }

    /// Writes an index of what was scanned, in place of the one that is there. It isn't valid before [`Index::stamp`].
    pub(super) fn build(place: &Place, scan: &Scan) -> io::Result<Self> {
        let holders = scan.taken.len() as u64;
        let mut table = Table::with_room_for(holders + bitmap::count(scan.taken.keys()), HEADER as u64);
        let mut held: BTreeMap<String, Vec<Address>> = BTreeMap::new();
        for (ip, holder) in &scan.taken {
            bitmap::insert(&mut table, *ip)?;
            if let Some(key) = holder.as_ref().and_then(Holder::key) {
                held.entry(key).or_default().push(*ip);
            }
        }
        for (key, ips) in &held {
            (0..ips.len().div_ceil(PER_RECORD)).try_for_each(|page| set_page(&mut table, key, ips, page))?;
        }
        fs::mkdirat(CWD, place.data_dir.join(DIR), Mode::from_raw_mode(0o700)).or_else(|errno| match errno {
            rustix::io::Errno::EXIST => Ok(()),
            errno => Err(errno),
        })?;
        // A new file: what stands there may be a link to somewhere else, and a valid header must never stand over
        // half a table.
        Self::discard(place);
        let file = File::from(open_file(place, OFlags::CREATE | OFlags::EXCL)?);
        if let Err(error) = file.write_all_at(&table.bytes, 0) {
            // On a full disk the reservations need what room there is.
            Self::discard(place);
            return Err(error);
        }
        let (slots, used) = table.shape();
        let table = Table::existing(file, HEADER as u64, slots, used)?;
        let built = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(|_| corrupt())?.as_secs();
        Ok(Self { table, boot: boot_id()?, built, changed: true, known: None })
    }

    /// Removes the index, because it was wrong.
    pub(super) fn discard(place: &Place) {
        // One that can't be removed is found wrong again the next time.
        let _ =
            fs::unlinkat(CWD, place.data_dir.join(DIR).join(file_name(place.network.as_str(), "")), AtFlags::empty());
    }

    /// True if there is no room for what one more reservation needs.
    pub(super) fn is_full(&self) -> bool {
        self.table.is_full()
    }

    /// True if the files were read longer ago than this, or at a time that is still to come.
    pub(super) fn is_older_than(&self, age: Duration) -> bool {
        let built = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.built));
        built.and_then(|built| built.elapsed().ok()).is_none_or(|elapsed| elapsed > age)
    }

    /// What the holder with this key has.
    pub(super) fn holdings(&self, key: &str) -> io::Result<Vec<Address>> {
        holdings(&self.table, key)
    }

    /// The first address from `from` to `to` that isn't taken.
    pub(super) fn next_free(&self, from: Address, to: Address) -> io::Result<Option<Address>> {
        bitmap::next_free(&self.table, from, to)
    }

    /// Notes a reservation that has been made. Constant cost, whatever the holder has already.
    pub(super) fn insert(&mut self, key: &str, ip: Address) -> io::Result<()> {
        self.changed = true;
        bitmap::insert(&mut self.table, ip)?;
        let mut ips = self.take_known(key)?;
        if !ips.contains(&ip) {
            ips.push(ip);
            set_page(&mut self.table, key, &ips, (ips.len() - 1) / PER_RECORD)?;
        }
        self.known = Some((key.to_owned(), ips));
        Ok(())
    }

    /// Notes that a reservation is gone. Constant cost, whatever the holder has left.
    pub(super) fn remove(&mut self, key: &str, ip: Address) -> io::Result<()> {
        self.changed = true;
        bitmap::remove(&mut self.table, ip)?;
        let mut ips = self.take_known(key)?;
        if let Some(position) = ips.iter().position(|held| *held == ip) {
            // The last one takes its place.
            ips.swap_remove(position);
            set_page(&mut self.table, key, &ips, position / PER_RECORD)?;
            set_page(&mut self.table, key, &ips, ips.len() / PER_RECORD)?;
        }
        self.known = Some((key.to_owned(), ips));
        Ok(())
    }

    fn take_known(&mut self, key: &str) -> io::Result<Vec<Address>> {
        match self.known.take().filter(|(known, _)| known == key) {
            Some((_, ips)) => Ok(ips),
            None => holdings(&self.table, key),
        }
    }

    /// Makes the index valid: the last step while the lock is held.
    pub(super) fn stamp(self, dir: &OwnedFd) -> io::Result<()> {
        if !self.changed {
            return Ok(());
        }
        // Any change from now on gives the directory a later time, also where times have a resolution of a second.
        let moment = SystemTime::now() - Duration::from_secs(2);
        let since = moment.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| corrupt())?;
        let stat = fs::fstat(dir)?;
        let (slots, used) = self.table.shape();
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8..16].copy_from_slice(&slots.to_be_bytes());
        header[16..24].copy_from_slice(&used.to_be_bytes());
        header[24..32].copy_from_slice(&since.as_secs().to_be_bytes());
        header[32..40].copy_from_slice(&u64::from(since.subsec_nanos()).to_be_bytes());
        header[40..48].copy_from_slice(&stat.st_ino.to_be_bytes());
        header[48..56].copy_from_slice(&self.built.to_be_bytes());
        header[64..64 + self.boot.len()].copy_from_slice(self.boot.as_bytes());
        self.table.bytes.write_all_at(&header, 0)?;
        let tv_sec = i64::try_from(since.as_secs()).map_err(|_| corrupt())?;
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT },
            last_modification: Timespec { tv_sec, tv_nsec: i64::from(since.subsec_nanos()) },
        };
        Ok(fs::futimens(dir, &times)?)
    }
}

/// The directory as the index remembers it: modification time in seconds and nanoseconds, and inode.
fn fingerprint(dir: &OwnedFd) -> io::Result<[u8; 24]> {
    let stat = fs::fstat(dir)?;
    let mut print = [0; 24];
    print[..8].copy_from_slice(&(stat.st_mtime as u64).to_be_bytes());
    print[8..16].copy_from_slice(&(stat.st_mtime_nsec as u64).to_be_bytes());
    print[16..].copy_from_slice(&stat.st_ino.to_be_bytes());
    Ok(print)
}

fn open_file(place: &Place, create: OFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = fs::openat(CWD, place.data_dir.join(DIR), flags, Mode::empty())?;
    let name = file_name(place.network.as_str(), "");
    // Looked at first, because opening a device can have an effect of its own.
    if create.is_empty() {
        let stat = fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(corrupt());
        }
    }
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | create;
    Ok(fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?)
}

fn boot_id() -> io::Result<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    if id.len() == 36 { Ok(id) } else { Err(corrupt()) }
}

fn number(header: &[u8; HEADER], at: usize) -> u64 {
    header[at..at + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn holdings<B: table::Bytes>(table: &Table<B>, key: &str) -> io::Result<Vec<Address>> {
    let mut ips = Vec::new();
    for page in 0.. {
        let Some(value) = table.get(record_key(key, page)?)? else { break };
        let numbers = value.chunks_exact(16).filter_map(|bytes| Some(u128::from_be_bytes(bytes.try_into().ok()?)));
        let before = ips.len();
        ips.extend(numbers.filter(|number| *number != NONE).map(Address));
        if ips.len() - before < PER_RECORD {
            break;
        }
    }
    Ok(ips)
}

/// Writes the record with this number of the holder who has `ips`, or removes it where they don't reach that far.
fn set_page<B: table::Bytes>(table: &mut Table<B>, key: &str, ips: &[Address], page: usize) -> io::Result<()> {
    let ips = ips.chunks(PER_RECORD).nth(page).unwrap_or_default();
    if ips.is_empty() {
        return table.remove(record_key(key, page)?);
    }
    let mut value = [0xff; VALUE];
    for (place, ip) in value.chunks_exact_mut(16).zip(ips) {
        place.copy_from_slice(&ip.0.to_be_bytes());
    }
    table.put(record_key(key, page)?, &value)
}

fn record_key(key: &str, page: usize) -> io::Result<table::Key> {
    let hash = sha512_hex(&[key, "\0", &page.to_string()], 32);
    Ok((HOLDINGS, u128::from_str_radix(&hash, 16).map_err(|_| corrupt())?))
}
