//! A network's directory: its lock, and its files by name. Nothing here follows a symbolic link.

use std::fs::{DirBuilder, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use cni_plugin::NetworkName;
use rustix::fs::{self, AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::error::StoreError;

const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// `NONBLOCK`: a FIFO planted in a file's place must not stop the plugin.
const FILE_FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
/// Nobody else needs to know who has which address.
const FILE_MODE: Mode = Mode::from_raw_mode(0o600);
/// No holder is longer: an environment variable has at most 128 KiB (`MAX_ARG_STRLEN`), so a container ID too.
const CONTENT_MAX: u64 = 192 * 1024;
/// What a reservation is written to where there are no unnamed files. No address, so nobody's reservation.
const TEMPORARY: &str = ".new";

/// The directory of a network's reservations, locked against every other host-local until dropped.
#[derive(Debug)]
pub(crate) struct NetworkDir {
    fd: OwnedFd,
    path: PathBuf,
    /// flock(2) on the same file that the Go plugin locks; closing it unlocks.
    _lock: OwnedFd,
}

/// What stands under a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Absent,
    /// A regular file with this content.
    File(Vec<u8>),
    /// A symbolic link, a directory, a FIFO: none of ours.
    Other,
}

impl NetworkDir {
    /// Opens and locks the network's directory; `None` if there is none.
    pub(crate) fn open(data_dir: &Path, network: &NetworkName) -> Result<Option<Self>, StoreError> {
        let path = data_dir.join(network.as_str());
        match fs::openat(CWD, &path, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => Self::lock(fd, path).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(source) => Err(StoreError::OpenDir { path, source }),
        }
    }

    /// As [`NetworkDir::open`], after creating what is missing, with mode 0755 as the Go plugin does.
    pub(crate) fn create(data_dir: &Path, network: &NetworkName) -> Result<Self, StoreError> {
        if let Some(dir) = Self::open(data_dir, network)? {
            return Ok(dir);
        }
        let path = data_dir.join(network.as_str());
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path)
            .map_err(|source| StoreError::CreateDir { path: path.clone(), source })?;
        Self::open(data_dir, network)?.ok_or(StoreError::OpenDir { path, source: Errno::NOENT })
    }

    fn lock(fd: OwnedFd, path: PathBuf) -> Result<Self, StoreError> {
        let flags = FILE_FLAGS | OFlags::RDONLY | OFlags::CREATE;
        let lock = fs::openat(&fd, "lock", flags, FILE_MODE)
            .and_then(|lock| retry(|| fs::flock(&lock, FlockOperation::LockExclusive)).map(|()| lock))
            .map_err(|source| StoreError::Lock { path: path.clone(), source })?;
        Ok(Self { fd, path, _lock: lock })
    }

    /// The full path of a name, for messages.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The open directory.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// What stands under `name`.
    pub(crate) fn read(&self, name: &str) -> Result<Entry, StoreError> {
        let failed = |source: std::io::Error| StoreError::Read { path: self.path_of(name), source };
        let file = match fs::openat(&self.fd, name, FILE_FLAGS | OFlags::RDONLY, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(Entry::Absent),
            // A symbolic link, and a socket.
            Err(Errno::LOOP | Errno::NXIO) => return Ok(Entry::Other),
            Err(source) => return Err(failed(source.into())),
        };
        if !file.metadata().map_err(failed)?.is_file() {
            return Ok(Entry::Other);
        }
        let mut content = Vec::new();
        file.take(CONTENT_MAX).read_to_end(&mut content).map_err(failed)?;
        Ok(Entry::File(content))
    }

    /// Makes `name` appear with all of its content at once. False if the name exists.
    pub(crate) fn create_file(&self, name: &str, content: &str) -> Result<bool, StoreError> {
        let failed = |source: std::io::Error| StoreError::Write { path: self.path_of(name), source };
        match self.unnamed_file() {
            Ok(fd) => {
                let mut file = File::from(fd);
                file.write_all(content.as_bytes()).map_err(failed)?;
                // open(2) gives this as the way to name an unnamed file without CAP_DAC_READ_SEARCH.
                let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
                match fs::linkat(CWD, unnamed, &self.fd, name, AtFlags::SYMLINK_FOLLOW) {
                    // There is no /proc here.
                    Err(Errno::NOENT) => self.create_through_temporary(name, content),
                    result => named(result).map_err(|errno| failed(errno.into())),
                }
            }
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => self.create_through_temporary(name, content),
            Err(source) => Err(failed(source.into())),
        }
    }

    fn unnamed_file(&self) -> Result<OwnedFd, Errno> {
        fs::openat(&self.fd, ".", OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, FILE_MODE)
    }

    /// For filesystems without unnamed files (NFS, vfat, FUSE, overlayfs before Linux 6.3). What a kill leaves under the
    /// temporary name is replaced by the next call; it is no address, so it is nobody's reservation.
    fn create_through_temporary(&self, name: &str, content: &str) -> Result<bool, StoreError> {
        let failed = |source: std::io::Error| StoreError::Write { path: self.path_of(name), source };
        // Making the temporary file would change the directory, and so the index would look stale.
        if fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Ok(false);
        }
        self.remove(TEMPORARY)?;
        let flags = FILE_FLAGS | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let written = fs::openat(&self.fd, TEMPORARY, flags, FILE_MODE)
            .map_err(std::io::Error::from)
            .and_then(|fd| File::from(fd).write_all(content.as_bytes()))
            .and_then(|()| Ok(named(self.name_temporary(name))?));
        self.remove(TEMPORARY)?;
        written.map_err(failed)
    }

    /// Gives the temporary file its name, unless that exists.
    fn name_temporary(&self, name: &str) -> Result<(), Errno> {
        match fs::linkat(&self.fd, TEMPORARY, &self.fd, name, AtFlags::empty()) {
            // No hard links either (vfat).
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => {
                fs::renameat_with(&self.fd, TEMPORARY, &self.fd, name, RenameFlags::NOREPLACE)
            }
            result => result,
        }
    }

    /// Overwrites `name` without giving up its disk block first, so that a full disk doesn't stop what only replaces a
    /// few bytes. A reader at the wrong moment may see a mixture: only for what is a hint.
    pub(crate) fn overwrite(&self, name: &str, content: &str) -> Result<(), StoreError> {
        let failed = |source: std::io::Error| StoreError::Write { path: self.path_of(name), source };
        let flags = FILE_FLAGS | OFlags::WRONLY | OFlags::CREATE;
        let open =
            || fs::openat(&self.fd, name, flags, FILE_MODE).map(File::from).map_err(|errno| failed(errno.into()));
        let mut file = open()?;
        // Under another name it is somebody else's.
        if file.metadata().map_err(failed)?.nlink() > 1 {
            self.remove(name)?;
            file = open()?;
        }
        file.write_all_at(content.as_bytes(), 0).and_then(|()| file.set_len(content.len() as u64)).map_err(failed)
    }

    /// Removes `name`; false if it wasn't there.
    pub(crate) fn remove(&self, name: &str) -> Result<bool, StoreError> {
        match fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(source) => Err(StoreError::Remove { path: self.path_of(name), source }),
        }
    }

    /// When `name` was last written, in seconds of the epoch; `None` if that can't be told.
    pub(crate) fn modified(&self, name: &str) -> Option<i64> {
        fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok().map(|stat| stat.st_mtime)
    }

    /// The names of everything in the directory.
    pub(crate) fn names(&self) -> Result<Vec<String>, StoreError> {
        let failed = |source| StoreError::List { path: self.path.clone(), source };
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // A name that isn't UTF-8 isn't an address.
            names.extend(entry.file_name().to_str().ok().map(str::to_owned));
        }
        Ok(names)
    }

    /// Finds out whether a reservation could be written, without leaving anything behind.
    pub(crate) fn probe(&self) -> Result<(), StoreError> {
        let failed = |source: std::io::Error| StoreError::Write { path: self.path.clone(), source };
        match self.unnamed_file() {
            Ok(fd) => File::from(fd).write_all(b"?").map_err(failed),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => writable(&self.path),
            Err(source) => Err(failed(source.into())),
        }
    }
}

/// Fails if nothing may be created in the directory: no permission, or a read-only filesystem.
pub(crate) fn writable(path: &Path) -> Result<(), StoreError> {
    fs::access(path, fs::Access::WRITE_OK | fs::Access::EXEC_OK)
        .map_err(|source| StoreError::Write { path: path.to_owned(), source: source.into() })
}

fn named(result: Result<(), Errno>) -> Result<bool, Errno> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn retry(mut call: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
