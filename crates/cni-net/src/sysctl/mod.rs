//! Network sysctls, below `/proc/sys/net`, of the calling thread's namespace.
//!
//! A path has `/` between its parts, as in `net/ipv4/conf/eth0.100/arp_notify`: dots are ordinary characters, so
//! interfaces that have them in their names need no escaping.

mod values;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::errno::needs;

pub use values::{Values, compare, present, restore, write_all};

/// Why a sysctl could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SysctlError {
    /// The path is not that of a network sysctl.
    #[error(
        "{path:?} is not a network sysctl: a path below \"net/\" without empty, \".\" and \"..\" parts is expected"
    )]
    Path {
        /// The refused path.
        path: String,
    },
    /// The kernel has no such sysctl here: the interface does not exist, or a module is not loaded.
    #[error("sysctl {path} does not exist: is the interface there, and the kernel module loaded?")]
    NotFound {
        /// The sysctl.
        path: String,
    },
    /// It is there, but reading it failed.
    #[error("cannot read sysctl {path}: {source}")]
    Read {
        /// The sysctl.
        path: String,
        /// The system's reason.
        source: io::Error,
    },
    /// It is there, but the kernel did not take the value.
    #[error("cannot set sysctl {path} to {value:?}: {source}{}", needs(source, "CAP_NET_ADMIN"))]
    Write {
        /// The sysctl.
        path: String,
        /// The refused value.
        value: String,
        /// The system's reason; `EROFS` where `/proc/sys` is mounted read-only.
        source: io::Error,
    },
}

impl SysctlError {
    /// True where the setting can't be changed because `/proc/sys` is mounted read-only, as in a container.
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::Write { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem)
    }
}

/// The sysctl's value, without the line's end.
///
/// # Errors
/// `Path`, `NotFound` and `Read`.
pub fn read(path: &str) -> Result<String, SysctlError> {
    let mut text = String::new();
    match open(&resolve(path)?, OFlags::RDONLY).and_then(|mut file| file.read_to_string(&mut text)) {
        Ok(_) => Ok(text.trim_end().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SysctlError::NotFound { path: path.to_owned() }),
        Err(source) => Err(SysctlError::Read { path: path.to_owned(), source }),
    }
}

/// Sets the sysctl. Idempotent, but the kernel may act on each write (`forwarding` sets every interface's).
///
/// # Errors
/// `Path`, `NotFound` and `Write`.
pub fn write(path: &str, value: &str) -> Result<(), SysctlError> {
    // One write: the kernel takes each write() for a whole value. An empty one must be a line, or there would be none.
    let text = if value.is_empty() { "\n" } else { value };
    let written = opened(path, value)?.write_all(text.as_bytes());
    written.map_err(|source| SysctlError::Write { path: path.to_owned(), value: value.to_owned(), source })
}

/// Opens the sysctl for `value` to be written.
fn opened(path: &str, value: &str) -> Result<File, SysctlError> {
    // Without O_CREAT, which procfs answers with EACCES for what does not exist, and O_TRUNC, which means nothing there.
    open(&resolve(path)?, OFlags::WRONLY).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => SysctlError::NotFound { path: path.to_owned() },
        _ => SysctlError::Write { path: path.to_owned(), value: value.to_owned(), source },
    })
}

/// Says whether [`write()`] could write `value`; writes nothing.
///
/// # Errors
/// Those of [`write()`], as far as opening the file shows them: a missing one, a read-only `/proc/sys`, a lack of rights.
pub fn probe(path: &str, value: &str) -> Result<(), SysctlError> {
    opened(path, value).map(drop)
}

/// Sets the sysctl if it has another value; true if it had. So it succeeds also where `/proc/sys` is read-only
/// and the value is right already.
///
/// # Errors
/// As [`read()`] and [`write()`].
pub fn ensure(path: &str, value: &str) -> Result<bool, SysctlError> {
    if read(path)? == value {
        return Ok(false);
    }
    write(path, value)?;
    Ok(true)
}

/// Opens without following a symbolic link anywhere on the way: `/proc/sys` has none, so one would lead out of it.
fn open(path: &Path, access: OFlags) -> io::Result<File> {
    let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // Before Linux 5.6, or in a sandbox that doesn't know the call: at least the last part may be no link.
        Err(Errno::NOSYS | Errno::PERM) => Ok(rustix::fs::open(path, flags, Mode::empty())?.into()),
        opened => Ok(opened?.into()),
    }
}

fn resolve(path: &str) -> Result<PathBuf, SysctlError> {
    let mut parts = path.split('/');
    let network = parts.next() == Some("net");
    let rest: Vec<&str> = parts.collect();
    if !network || rest.is_empty() || rest.iter().any(|part| matches!(*part, "" | "." | "..")) || path.contains('\0') {
        return Err(SysctlError::Path { path: path.to_owned() });
    }
    Ok(PathBuf::from("/proc/sys").join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_net() {
        assert_eq!(
            resolve("net/ipv4/conf/eth0.100/arp_notify").unwrap(),
            PathBuf::from("/proc/sys/net/ipv4/conf/eth0.100/arp_notify")
        );
        for bad in [
            "",
            "net",
            "net/",
            "/net/ipv4/ip_forward",
            "kernel/hostname",
            "net/../kernel/hostname",
            "net/ipv4/./ip_forward",
            "net//ipv4/ip_forward",
            "net.ipv4.ip_forward",
            "netfoo/x",
            "net/ipv4/ip_forward\0",
        ] {
            assert!(matches!(resolve(bad), Err(SysctlError::Path { path }) if path == bad), "{bad:?}");
        }
    }
}
