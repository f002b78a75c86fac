//! Files of a plugin on the node, in directories that other programs may write to: names that fit, safe reading, atomic writing.
//!
//! Nothing here follows a symbolic link under a name of its own, waits for a FIFO, opens a device, or reads without a bound.

use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::protocol::owner::sha512_hex;

/// The longest name of a file, in bytes (`NAME_MAX`).
const NAME_MAX: usize = 255;
/// How much of a name that is too long stays readable.
const READABLE: usize = 100;
const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// `NONBLOCK`: what becomes a FIFO after it was looked at must not stop the plugin either.
const FILE_FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
/// Only root needs to know what is in them.
const FILE_MODE: Mode = Mode::from_raw_mode(0o600);
/// What a file is written to where there are no unnamed files. Must be no name of a file that counts.
const TEMPORARY: &str = ".new";

/// The name of the file for `stem`, a container ID or a network's name, which may be longer than a file's name. One that is too
/// long is cut and made unique by a hash after `~`, which neither of them may have.
pub fn file_name(stem: &str, suffix: &str) -> String {
    if stem.len() + suffix.len() <= NAME_MAX {
        return format!("{stem}{suffix}");
    }
    let cut = (0..=READABLE).rev().find(|cut| stem.is_char_boundary(*cut)).unwrap_or(0);
    format!("{}~{}{suffix}", &stem[..cut], sha512_hex(&[stem], 64))
}

/// Reads a file that the node's administrator names, of at most `max` bytes. Symbolic links are followed; `/dev/null` is an
/// empty file.
///
/// # Errors
/// Also for what is no regular file, before it is opened, and for a longer one.
pub fn read_config(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let null = Path::new("/dev/null").metadata().map(|null| null.rdev());
    let is_readable = |file: &std::fs::Metadata| {
        file.is_file() || file.file_type().is_char_device() && null.as_ref().is_ok_and(|null| *null == file.rdev())
    };
    let no_file = || io::Error::new(ErrorKind::InvalidInput, "it is no regular file");
    if !is_readable(&path.metadata()?) {
        return Err(no_file());
    }
    let file = File::from(fs::open(path, FILE_FLAGS.difference(OFlags::NOFOLLOW) | OFlags::RDONLY, Mode::empty())?);
    if !is_readable(&file.metadata()?) {
        return Err(no_file());
    }
    let mut content = Vec::new();
    if file.take(max + 1).read_to_end(&mut content)? as u64 > max {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it is longer than {max} bytes")));
    }
    Ok(content)
}

/// What stands under a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// No such entry.
    Absent,
    /// A regular file with this content.
    File(Vec<u8>),
    /// A symbolic link, a directory, a FIFO, a device: not made by a plugin.
    Other,
}

/// An open directory of a plugin's files.
#[derive(Debug)]
pub struct StateDir {
    fd: OwnedFd,
    path: PathBuf,
}

impl StateDir {
    /// Opens the directory, which may be a symbolic link itself if `links` says so; `None` if there is none, and there can be none
    /// where the path is too long.
    pub fn open(path: &Path, links: bool) -> io::Result<Option<Self>> {
        let flags = if links { DIR_FLAGS } else { DIR_FLAGS | OFlags::NOFOLLOW };
        match fs::openat(CWD, path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd, path: path.to_owned() })),
            Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Creates the directory and those above it that are missing, with this mode. Idempotent.
    pub fn make(path: &Path, mode: u32) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(mode).create(path)
    }

    /// Fails if the directory, which doesn't exist, could not be created. Leaves nothing behind.
    ///
    /// Permissions don't say it: not on a read-only filesystem, and not on those of the kernel (sysfs, proc).
    pub fn probe_make(path: &Path) -> io::Result<()> {
        if path.components().any(|part| part.as_os_str().len() > NAME_MAX) {
            return Err(Errno::NAMETOOLONG.into());
        }
        let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
        let probe = existing.join(format!(".cni-status-{}", std::process::id()));
        fs::mkdirat(CWD, &probe, Mode::from_raw_mode(0o700))?;
        Ok(fs::unlinkat(CWD, &probe, AtFlags::REMOVEDIR)?)
    }

    /// The full path of a name, for messages.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open directory.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// What stands under `name`; of a longer file the first `max` bytes.
    pub fn read(&self, name: &str, max: u64) -> io::Result<Entry> {
        // Looked at first, because opening a device can have an effect of its own.
        match self.kind(name)? {
            None => return Ok(Entry::Absent),
            Some(FileType::RegularFile) => {}
            Some(_) => return Ok(Entry::Other),
        }
        let file = match fs::openat(&self.fd, name, FILE_FLAGS | OFlags::RDONLY, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(Entry::Absent),
            Err(Errno::LOOP | Errno::NXIO) => return Ok(Entry::Other),
            Err(errno) => return Err(errno.into()),
        };
        if !file.metadata()?.is_file() {
            return Ok(Entry::Other);
        }
        let mut content = Vec::new();
        file.take(max).read_to_end(&mut content)?;
        Ok(Entry::File(content))
    }

    fn kind(&self, name: &str) -> io::Result<Option<FileType>> {
        match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes `name` appear with all of its content at once. False if the name exists.
    pub fn create_file(&self, name: &str, content: &[u8]) -> io::Result<bool> {
        match self.unnamed_file() {
            Ok(fd) => {
                let mut file = File::from(fd);
                file.write_all(content)?;
                // open(2) gives this as the way to name an unnamed file without CAP_DAC_READ_SEARCH.
                let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
                match fs::linkat(CWD, unnamed, &self.fd, name, AtFlags::SYMLINK_FOLLOW) {
                    // There is no /proc here.
                    Err(Errno::NOENT) => self.create_through_temporary(name, content),
                    result => Ok(named(result)?),
                }
            }
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => self.create_through_temporary(name, content),
            Err(errno) => Err(errno.into()),
        }
    }

    fn unnamed_file(&self) -> Result<OwnedFd, Errno> {
        fs::openat(&self.fd, ".", OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, FILE_MODE)
    }

    /// For filesystems without unnamed files (NFS, vfat, FUSE, overlayfs before Linux 6.3). What a kill leaves under the
    /// temporary name is replaced by the next call.
    fn create_through_temporary(&self, name: &str, content: &[u8]) -> io::Result<bool> {
        // Making the temporary file would change the directory for nothing.
        if self.kind(name)?.is_some() {
            return Ok(false);
        }
        let written = self.write_new(TEMPORARY, content).and_then(|()| Ok(named(self.name_temporary(name))?));
        self.remove(TEMPORARY)?;
        written
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

    /// Writes a new file in the place of whatever has the name.
    fn write_new(&self, name: &str, content: &[u8]) -> io::Result<()> {
        self.remove(name)?;
        let flags = FILE_FLAGS | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        File::from(fs::openat(&self.fd, name, flags, FILE_MODE)?).write_all(content)
    }

    /// Puts a file with this content in the place of whatever has the name, whole or not at all. A directory stays, and is an
    /// error. What a kill leaves is `.NAME.new`, which the next call and [`StateDir::remove_with_unfinished`] remove.
    pub fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        self.replace_with_mode(name, content, FILE_MODE.bits())
    }

    /// [`StateDir::replace`] with these permissions, for a file that another user's process reads.
    pub fn replace_with_mode(&self, name: &str, content: &[u8], mode: u32) -> io::Result<()> {
        let unfinished = unfinished(name);
        let written = self
            .write_new(&unfinished, content)
            .and_then(|()| match Mode::from_raw_mode(mode) {
                FILE_MODE => Ok(()),
                mode => Ok(fs::chmodat(&self.fd, &unfinished, mode, AtFlags::empty())?),
            })
            .and_then(|()| Ok(fs::renameat(&self.fd, &unfinished, &self.fd, name)?));
        if written.is_err() {
            // The first error is the one to report.
            let _ = self.remove(&unfinished);
        }
        written
    }

    /// Overwrites `name` without giving up its disk block first, so that a full disk doesn't stop what only replaces a
    /// few bytes. What isn't a regular file, or has another name too, is put out of the way. A concurrent reader may
    /// see a mixture of both contents: only for what is a hint.
    pub fn overwrite(&self, name: &str, content: &[u8]) -> io::Result<()> {
        if self.kind(name)?.is_some_and(|kind| kind != FileType::RegularFile) {
            self.clear(name)?;
        }
        let open = || fs::openat(&self.fd, name, FILE_FLAGS | OFlags::WRONLY | OFlags::CREATE, FILE_MODE);
        let mut file = File::from(open()?);
        // A hard link: the file is another program's under its other name.
        if file.metadata()?.nlink() > 1 {
            self.remove(name)?;
            file = File::from(open()?);
        }
        file.write_all_at(content, 0).and_then(|()| file.set_len(content.len() as u64))
    }

    /// Removes whatever has the name, also an empty directory.
    fn clear(&self, name: &str) -> io::Result<()> {
        match fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => Ok(fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)?),
            result => Ok(result?),
        }
    }

    /// Removes `name`; false if it wasn't there.
    pub fn remove(&self, name: &str) -> io::Result<bool> {
        match fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes `name`, and what [`StateDir::replace`] may have left of it; a directory in the place of either belongs to
    /// another program and stays. Idempotent.
    pub fn remove_with_unfinished(&self, name: &str) -> io::Result<()> {
        for name in [unfinished(name), name.to_owned()] {
            match self.remove(&name) {
                Err(error) if error.kind() == ErrorKind::IsADirectory => {}
                result => drop(result?),
            }
        }
        Ok(())
    }

    /// When `name` was last written, in seconds of the epoch; `None` if that is unknown.
    pub fn modified(&self, name: &str) -> Option<i64> {
        fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok().map(|stat| stat.st_mtime)
    }

    /// The names of everything in the directory, but for those that aren't UTF-8.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.fd)? {
            names.extend(entry?.file_name().to_str().ok().map(str::to_owned));
        }
        Ok(names)
    }

    /// Finds out whether a file could be written, without leaving anything behind.
    pub fn probe(&self) -> io::Result<()> {
        match self.unnamed_file() {
            Ok(fd) => File::from(fd).write_all(b"?"),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                Ok(fs::access(&self.path, fs::Access::WRITE_OK | fs::Access::EXEC_OK)?)
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

/// What a file is written to before it gets its name. IDs begin with a letter or digit, so no reservation or backup has this name.
fn unfinished(name: &str) -> String {
    file_name(&format!(".{name}"), ".new")
}

fn named(result: Result<(), Errno>) -> Result<bool, Errno> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn names_fit_and_stay_apart() {
        assert_eq!(file_name("c1", "_eth0.json"), "c1_eth0.json");
        let longest = "a".repeat(NAME_MAX - 5);
        assert_eq!(file_name(&longest, ".json").len(), NAME_MAX);
        let long = |last: char| file_name(&format!("{longest}{last}"), ".json");
        assert!(long('a') != long('b') && long('a').len() <= NAME_MAX && long('a').contains('~'));
        assert!(unfinished(&file_name(&longest, ".json")).len() <= NAME_MAX);
        assert!(file_name(&"\u{e9}".repeat(200), "").len() <= NAME_MAX);
    }

    #[test]
    fn what_is_no_regular_file_is_other_and_is_never_opened() {
        let temp = tempfile::tempdir().unwrap();
        let outside = temp.path().join("outside");
        std::fs::write(&outside, "secret").unwrap();
        let path = temp.path().join("dir");
        StateDir::make(&path, 0o700).unwrap();
        let dir = StateDir::open(&path, false).unwrap().unwrap();
        symlink(&outside, path.join("link")).unwrap();
        fs::mknodat(CWD, path.join("fifo"), FileType::Fifo, FILE_MODE, 0).unwrap();
        std::fs::create_dir(path.join("directory")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path.join("socket")).unwrap();
        for name in ["link", "fifo", "directory", "socket"] {
            assert_eq!(dir.read(name, 9).unwrap(), Entry::Other, "{name}");
            if name != "directory" {
                dir.replace(name, b"new").unwrap();
                assert_eq!(dir.read(name, 9).unwrap(), Entry::File(b"new".to_vec()), "{name}");
            }
        }
        assert!(dir.replace("directory", b"new").is_err());
        dir.remove_with_unfinished("directory").unwrap();
        dir.overwrite("directory", b"hint").unwrap();
        assert_eq!(dir.read("directory", 2).unwrap(), Entry::File(b"hi".to_vec()));
        assert_eq!(std::fs::read(&outside).unwrap(), b"secret");
        assert!(!dir.names().unwrap().iter().any(|name| name.contains(".new")));
    }

    #[test]
    fn a_file_of_the_administrator_is_regular_and_bounded() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name);
        std::fs::write(path("file"), "12345").unwrap();
        symlink(path("file"), path("link")).unwrap();
        fs::mknodat(CWD, path("fifo"), FileType::Fifo, FILE_MODE, 0).unwrap();
        assert_eq!(read_config(&path("link"), 5).unwrap(), b"12345");
        assert_eq!(read_config(&path("file"), 4).unwrap_err().to_string(), "it is longer than 4 bytes");
        assert_eq!(read_config(Path::new("/dev/null"), 4).unwrap(), b"");
        for other in [path("fifo"), temp.path().to_owned(), "/dev/zero".into()] {
            assert_eq!(read_config(&other, 4).unwrap_err().to_string(), "it is no regular file", "{other:?}");
        }
        assert_eq!(read_config(&path("none"), 4).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_found_out() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("file"), "").unwrap();
        assert!(StateDir::probe_make(&temp.path().join("a/b")).is_ok());
        assert!(StateDir::probe_make(&temp.path().join("file/b")).is_err());
        assert!(StateDir::probe_make(&temp.path().join("a").join("b".repeat(256))).is_err());
        assert!(StateDir::probe_make(Path::new("/proc/self/nothing")).is_err());
        assert_eq!(temp.path().read_dir().unwrap().count(), 1);
    }
}
