//! Follows the files: inotify(7) on the directory and on that of each network.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::wait::{Kind, Poller, Token};
use super::zone::Zone;
use crate::place::{LONGEST, is_network};
use crate::record::Record;
use cni_plugin::state::read_config;

/// An event needs its header and a name (`NAME_MAX`).
const BUFFER: usize = 16 << 10;
const OF_NETWORKS: WatchFlags = WatchFlags::CREATE.union(WatchFlags::MOVED_TO).union(WatchFlags::ONLYDIR);
const OF_FILES: WatchFlags = WatchFlags::MOVED_TO
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ONLYDIR);

/// The names, and the watch that keeps them as the files have them. The paths are relative to the process's directory.
#[derive(Debug)]
pub struct Watch {
    /// The names.
    pub zone: Zone,
    inotify: OwnedFd,
    /// The network's directory of a watch.
    directories: HashMap<i32, String>,
    top: i32,
}

/// What an event says.
enum Change {
    /// A network's directory may be new.
    Directory(String),
    /// A file of a network.
    File(String, String),
    /// A network's directory is gone.
    Gone(i32),
    /// Events were lost.
    Everything,
}

impl Watch {
    /// Watches; has read nothing yet.
    pub fn new(poller: &Poller) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let top = inotify::add_watch(&inotify, ".", OF_NETWORKS)?;
        poller.add(&inotify, Token::single(Kind::Files), false)?;
        Ok(Self { zone: Zone::default(), inotify, directories: HashMap::new(), top })
    }

    /// Reads what has happened; true if that was anything. A system call where it was not.
    pub fn drain(&mut self) -> io::Result<bool> {
        let mut changes = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().and_then(|name| name.to_str().ok()).map(str::to_owned);
                    changes.extend(change(event.wd(), event.events(), name, self.top, &self.directories));
                }
                Err(Errno::WOULDBLOCK) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for change in &changes {
            match change {
                Change::Directory(directory) => self.enter(directory)?,
                Change::File(directory, key) => self.read(directory, key),
                Change::Gone(watch) => {
                    if let Some(directory) = self.directories.remove(watch)
                        && !self.directories.values().any(|other| *other == directory)
                    {
                        self.zone.remove_directory(&directory);
                    }
                }
                Change::Everything => self.rescan()?,
            }
        }
        Ok(!changes.is_empty())
    }

    /// Reads all files, and forgets those that are gone.
    pub fn rescan(&mut self) -> io::Result<()> {
        self.zone = Zone::default();
        for entry in fs::read_dir(".")? {
            if let Ok(name) = entry?.file_name().into_string() {
                self.enter(&name)?;
            }
        }
        Ok(())
    }

    /// Watches a network's directory, and reads the files that were in it before. What isn't one, or is gone already, is passed over.
    fn enter(&mut self, directory: &str) -> io::Result<()> {
        if !is_network(Path::new("."), directory) {
            return Ok(());
        }
        match inotify::add_watch(&self.inotify, directory, OF_FILES) {
            Ok(watch) => drop(self.directories.insert(watch, directory.to_owned())),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
        for entry in entries.flatten() {
            if let Ok(key) = entry.file_name().into_string() {
                self.read(directory, &key);
            }
        }
        Ok(())
    }

    /// Takes over what a file says now. One that is no record is none: it is not this plugin's, or a newer version's.
    fn read(&mut self, directory: &str, key: &str) {
        if key.starts_with('.') {
            return;
        }
        let content = read_config(&Path::new(directory).join(key), LONGEST);
        let record = content.ok().and_then(|content| serde_json::from_slice::<Record>(&content).ok());
        match record.filter(|record| record.owner().key() == key) {
            Some(record) => self.zone.insert(directory, key, record),
            None => self.zone.remove(directory, key),
        }
    }
}

fn change(
    watch: i32,
    events: ReadFlags,
    name: Option<String>,
    top: i32,
    directories: &HashMap<i32, String>,
) -> Option<Change> {
    if events.contains(ReadFlags::QUEUE_OVERFLOW) {
        return Some(Change::Everything);
    }
    if events.contains(ReadFlags::IGNORED) {
        return Some(Change::Gone(watch));
    }
    if watch == top {
        return Some(Change::Directory(name?));
    }
    Some(Change::File(directories.get(&watch)?.clone(), name?))
}
