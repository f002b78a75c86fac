//! Network namespaces: opening one by its path and running a closure inside it.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::errno::{Errno, needs};

/// `f_type` of the files that `ip netns add` and the runtimes bind-mount (`include/uapi/linux/magic.h`).
const NSFS_MAGIC: i64 = 0x6e73_6673;
/// `f_type` of `/proc/PID/ns/net` on kernels before 3.19, where these files still were procfs's own.
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// Why a network namespace could not be opened or entered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetNsError {
    /// Nothing is at the path: the container is gone, or the runtime passed a wrong path.
    #[error("network namespace {path:?} does not exist: has the container ended?")]
    NotFound {
        /// The path as it was given.
        path: PathBuf,
    },
    /// Something is at the path, but no network namespace.
    #[error("{path:?} is not a network namespace: {why}")]
    NotANamespace {
        /// The path as it was given.
        path: PathBuf,
        /// What it is instead.
        why: &'static str,
    },
    /// The file is there and could not be opened.
    #[error("cannot open network namespace {path:?}: {source}{}", to_open(path, source))]
    Open {
        /// The path as it was given.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The kernel refused to move this thread into the namespace. It has not left the one it was in.
    #[error("cannot enter network namespace {path:?}: {source}{}", needs(source, "CAP_SYS_ADMIN"))]
    Enter {
        /// The path it was opened by.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The closure has run, but this thread could not go back: it is in the wrong namespace and must not go on.
    #[error("cannot return to network namespace {path:?}: {source}")]
    Return {
        /// Where the thread came from.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// procfs shows the namespaces of other users' processes only to who may trace these (proc(5)).
fn to_open(path: &Path, source: &io::Error) -> &'static str {
    let is_refused = source.kind() == io::ErrorKind::PermissionDenied;
    if is_refused && path.starts_with("/proc") { "; CAP_SYS_PTRACE is needed" } else { "" }
}

/// An open network namespace. Holding it keeps the namespace alive, even if its path is unmounted and its last
/// process ends.
#[derive(Debug)]
pub struct NetNs {
    inner: netns_rs::NetNs,
    device: u64,
    inode: u64,
}

impl NetNs {
    /// Opens the namespace at `path`.
    ///
    /// The file must be on nsfs or procfs, as the Go plugins demand (`pkg/ns/ns_linux.go`, `IsNSorErr`). That it is a
    /// namespace of another type shows only when it is entered.
    ///
    /// # Errors
    /// `NotFound`, `NotANamespace` and `Open`.
    pub fn open(path: &Path) -> Result<NetNs, NetNsError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => NetNsError::NotFound { path: path.to_owned() },
            _ => NetNsError::Open { path: path.to_owned(), source },
        };
        // Before opening: open() of a FIFO, which anything may be, would block.
        let filesystem = rustix::fs::statfs(path).map_err(|errno| failed(errno.into()))?.f_type;
        #[allow(clippy::unnecessary_cast)] // f_type's type differs between architectures.
        if !matches!(filesystem as i64, NSFS_MAGIC | PROC_SUPER_MAGIC) {
            return Err(NetNsError::NotANamespace {
                path: path.to_owned(),
                why: "it is an ordinary file or directory",
            });
        }
        Self::identify(netns_rs::get_from_path(path).map_err(|error| failed(open_error(error)))?)
    }

    /// The namespace at `path`, for removing what is in it: `None` if no path is given, or nothing is there any more. An
    /// ordinary file is nothing too: after the unmount, or a reboot, it is what remains of `ip netns add`.
    ///
    /// # Errors
    /// `Open`.
    pub fn open_if_there(path: Option<&Path>) -> Result<Option<NetNs>, NetNsError> {
        match path.map(Self::open) {
            None | Some(Err(NetNsError::NotFound { .. } | NetNsError::NotANamespace { .. })) => Ok(None),
            Some(result) => result.map(Some),
        }
    }

    /// True if the namespace at `path` is this one, false if it is another; `None` if none is there. One system call, which opens
    /// nothing, so that many can be asked about; unlike [`NetNs::open`] it doesn't see that a file of procfs has no namespace any more.
    pub fn is_at(&self, path: &Path) -> Option<bool> {
        let found = rustix::fs::stat(path).ok()?;
        // All namespaces are files of one filesystem, which the kernel mounts for itself (fs/nsfs.c).
        (found.st_dev == self.device).then_some(found.st_ino == self.inode)
    }

    /// The namespace that the calling thread is in.
    ///
    /// # Errors
    /// `Open`, where `/proc` is not mounted.
    pub fn current() -> Result<NetNs, NetNsError> {
        let failed = |error| NetNsError::Open { path: "/proc/thread-self/ns/net".into(), source: open_error(error) };
        Self::identify(netns_rs::get_from_current_thread().map_err(failed)?)
    }

    fn identify(inner: netns_rs::NetNs) -> Result<NetNs, NetNsError> {
        match inner.file().metadata() {
            Ok(file) => Ok(NetNs { device: file.dev(), inode: file.ino(), inner }),
            Err(source) => Err(NetNsError::Open { path: inner.path().to_owned(), source }),
        }
    }

    /// Calls `f` once for each namespace that has a process or is mounted (`ip netns add`; runtimes pin a pod's namespace, which
    /// may be without any process). For garbage collection and repair only: it reads all processes and all mounts, and holds one
    /// namespace open at a time.
    ///
    /// # Errors
    /// Those of `f`, at once. `Open` if one of the namespaces cannot be opened: then it may have been left out.
    pub fn for_each<E: From<NetNsError>>(mut f: impl FnMut(&NetNs) -> Result<(), E>) -> Result<(), E> {
        let mut seen = HashSet::new();
        for path in of_processes()?.chain(mounted()?) {
            let namespace = match NetNs::open(&path) {
                Ok(namespace) => namespace,
                Err(error) if is_out_of_reach(&error) => continue,
                Err(error) => return Err(error.into()),
            };
            if seen.insert(namespace.inode()) {
                f(&namespace)?;
            }
        }
        Ok(())
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        self.inner.path()
    }

    /// The inode's number, which no other namespace has as long as this one lives.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// True if both are the same namespace, even if they were opened by different paths: nsfs gives each namespace one inode.
    pub fn is_same(&self, other: &NetNs) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Runs `f` with the calling thread inside this namespace, and takes the thread back afterwards, also when `f`
    /// panics. Other threads stay where they are, so `f` must not expect threads that it starts elsewhere to be here.
    ///
    /// Where the thread is in this namespace already, nothing is switched.
    ///
    /// # Errors
    /// `NotANamespace` if it is a namespace of another type, `Enter`, and `Return`, after which the caller has to
    /// give up. A panic of `f` that cannot be followed by the return aborts the process.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> Result<T, NetNsError> {
        let home = NetNs::current()?;
        if home.is_same(self) {
            return Ok(f());
        }
        self.enter()?;
        let guard = GoHome(Some(home));
        let value = f();
        guard.go()?;
        Ok(value)
    }

    fn enter(&self) -> Result<(), NetNsError> {
        let Err(error) = self.inner.enter() else { return Ok(()) };
        let path = self.path().to_owned();
        let source = enter_error(error);
        // setns(2): EINVAL if the file is a namespace of another type than CLONE_NEWNET, or no namespace (procfs).
        if source.kind() == io::ErrorKind::InvalidInput {
            return Err(NetNsError::NotANamespace { path, why: "it is a namespace of another type, or another file" });
        }
        Err(NetNsError::Enter { path, source })
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.inner.file().as_raw_fd()
    }
}

/// Takes the thread home when dropped. netns-rs's own `run` does so on the ordinary way only, not on a panic.
struct GoHome(Option<NetNs>);

impl GoHome {
    fn go(mut self) -> Result<(), NetNsError> {
        let Some(home) = self.0.take() else { return Ok(()) };
        home.inner
            .enter()
            .map_err(|error| NetNsError::Return { path: home.path().to_owned(), source: enter_error(error) })
    }
}

impl Drop for GoHome {
    fn drop(&mut self) {
        // Unwinding. No error can be returned, and the code that runs next would change the container's network instead of the
        // host's.
        if self.0.take().is_some_and(|home| home.inner.enter().is_err()) {
            std::process::abort();
        }
    }
}

/// The paths of the namespaces of all processes.
fn of_processes() -> Result<impl Iterator<Item = PathBuf>, NetNsError> {
    let failed = |source| NetNsError::Open { path: "/proc".into(), source };
    let entries = Path::new("/proc").read_dir().map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let is_process = |name: &OsStr| name.to_str().is_some_and(|name| name.parse::<u32>().is_ok());
    Ok(entries.into_iter().filter(move |entry| is_process(&entry.file_name())).map(|entry| entry.path().join("ns/net")))
}

/// The paths that network namespaces are mounted at, as far as this process sees mounts.
fn mounted() -> Result<impl Iterator<Item = PathBuf>, NetNsError> {
    const MOUNTS: &str = "/proc/thread-self/mountinfo";
    let text = fs::read(MOUNTS).map_err(|source| NetNsError::Open { path: MOUNTS.into(), source })?;
    let paths: Vec<PathBuf> = text.split(|byte| *byte == b'\n').filter_map(mount_of_namespace).collect();
    Ok(paths.into_iter())
}

/// The mount point in a line of mountinfo (proc(5)), if a network namespace is mounted there: the fourth field, which is the root of
/// the mount in its filesystem, is `net:[INODE]`; the fifth is the mount point.
fn mount_of_namespace(line: &[u8]) -> Option<PathBuf> {
    let mut fields = line.split(|byte| *byte == b' ').skip(3);
    fields.next()?.strip_prefix(b"net:[")?;
    Some(PathBuf::from(OsString::from_vec(unescaped(fields.next()?))))
}

/// A path in mountinfo, in which spaces, tabs, line ends and backslashes are three octal digits after a backslash.
fn unescaped(mut text: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(text.len());
    while let [first, rest @ ..] = text {
        let octal = rest.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            path.push(byte);
            text = &rest[3..];
        } else {
            path.push(*first);
            text = rest;
        }
    }
    path
}

/// True for a mount that is gone, for the namespace of a process that has ended, which loses its namespaces before its directory, and of one that we may
/// not look at, which no process with our privileges has attached to anything.
fn is_out_of_reach(error: &NetNsError) -> bool {
    match error {
        // A namespace may be unmounted before it is opened; then there is an ordinary file.
        NetNsError::NotFound { .. } | NetNsError::NotANamespace { .. } => true,
        NetNsError::Open { source, .. } => {
            let of_another = source.kind() == io::ErrorKind::PermissionDenied;
            of_another || source.raw_os_error() == Some(Errno::SRCH)
        }
        _ => false,
    }
}

fn open_error(error: netns_rs::Error) -> io::Error {
    match error {
        netns_rs::Error::OpenNsError(_, source) => source,
        other => io::Error::other(other),
    }
}

fn enter_error(error: netns_rs::Error) -> io::Error {
    match error {
        netns_rs::Error::SetnsError(errno) => io::Error::from_raw_os_error(errno as i32),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_network_namespaces_are_told_from_others() {
        let path = |line: &str| mount_of_namespace(line.as_bytes());
        let line = "512 25 0:4 net:[4026532281] /run/netns/a\\040b rw shared:7 - nsfs nsfs rw";
        assert_eq!(path(line), Some(PathBuf::from("/run/netns/a b")));
        assert_eq!(path("513 25 0:4 mnt:[4026532282] /run/x rw - nsfs nsfs rw"), None);
        assert_eq!(path("25 1 0:22 / /run rw - tmpfs tmpfs rw"), None);
        assert_eq!(path(""), None);
    }
}
