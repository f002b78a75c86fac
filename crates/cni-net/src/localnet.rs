//! `route_localnet`: whether packets from and to 127.0.0.0/8 are routed through a link. Where it is on, neighbours reach the
//! services on the node's own 127.0.0.1, unless a guard drops their packets (CVE-2020-8558).
//!
//! The guard is packet rules, and these can be flushed while the setting stays on. So a file records until the next boot that
//! a plugin has switched the setting on for a link: every later call, for whatever link and network, checks in constant time
//! whether the guard has to be there.

use std::error::Error;
use std::io;

use cni_plugin::IfName;
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use crate::sysctl::{self, SysctlError};

/// The guard of 127.0.0.0/8 could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum LocalnetError {
    /// There is no guard, and the setting can't be switched off either.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// This process has too few descriptors, buffers or memory to look. Nothing was changed.
    #[error("cannot check whether packets from other hosts to 127.0.0.0/8 are dropped: {0}")]
    Shortage(String),
}

/// An empty file, in a directory where only root can make it. Like the settings, it is gone after a restart of the node.
const MARK: &str = "/run/cni-plugins.localnet";
const LINKS: &str = "/proc/sys/net/ipv4/conf";
/// Settings for all links, and the loopback device's.
const NO_LINKS: [&str; 3] = ["all", "default", "lo"];

/// Switches it on, and records that. Idempotent. Without the record if that can't be written.
///
/// # Errors
/// As [`sysctl::ensure`].
pub fn permit(link: &IfName) -> Result<(), SysctlError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    drop(fs::open(MARK, flags, Mode::from_raw_mode(0o600)));
    sysctl::ensure(&path(link.as_str()), "1").map(drop)
}

/// Switches it off. Idempotent.
///
/// # Errors
/// As [`sysctl::ensure`].
pub fn forbid(link: &IfName) -> Result<(), SysctlError> {
    sysctl::ensure(&path(link.as_str()), "0").map(drop)
}

/// The setting.
///
/// # Errors
/// As [`sysctl::read`].
pub fn read(link: &IfName) -> Result<String, SysctlError> {
    sysctl::read(&path(link.as_str()))
}

/// The name of the setting, for messages.
pub fn path(link: &str) -> String {
    format!("net/ipv4/conf/{link}/route_localnet")
}

/// True if it is on for one of `links`, or a plugin has switched it on for any link. Constant time.
pub fn needs_guard<'a>(links: impl IntoIterator<Item = &'a str>) -> bool {
    has_been_permitted() || links.into_iter().any(is_permitted)
}

/// True if a plugin has switched it on for any link since the node was started.
fn has_been_permitted() -> bool {
    fs::lstat(MARK).is_ok()
}

/// True if it is on. A link that isn't there, or can't be asked, has it off.
fn is_permitted(link: &str) -> bool {
    link.parse::<IfName>().is_ok() && sysctl::read(&path(link)).is_ok_and(|value| value.trim() != "0")
}

/// Calls `guard` where one is needed: if the setting is on for one of `links`, or a plugin has switched any on. `guard` has to
/// be idempotent. If it fails, the setting is switched off for these links, and if a plugin has switched any on, for all: a port
/// on 127.0.0.1 that doesn't answer does less harm than an open 127.0.0.1. That is reported on stderr.
///
/// # Errors
/// [`LocalnetError::Shortage`] if `guard` failed because this process has too few descriptors, buffers or memory: then it is
/// unknown whether the guard is there, and other containers' ports are left as they are. [`LocalnetError::Sysctl`] if the setting can't be switched off.
pub fn keep_guarded<'a, E: Error + 'static>(
    links: impl IntoIterator<Item = &'a str>,
    guard: impl FnOnce() -> Result<(), E>,
) -> Result<(), LocalnetError> {
    let mut on: Vec<IfName> = links.into_iter().filter(|link| is_permitted(link)).flat_map(str::parse).collect();
    let has_been_permitted = has_been_permitted();
    if on.is_empty() && !has_been_permitted {
        return Ok(());
    }
    let Err(error) = guard() else { return Ok(()) };
    if is_shortage(&error) {
        return Err(LocalnetError::Shortage(error.to_string()));
    }
    if has_been_permitted {
        on = permitted_links();
    }
    for link in &on {
        forbid(link)?;
        eprintln!(
            "switched {} off, because packets from that link to 127.0.0.0/8 cannot be dropped: {error}",
            path(link.as_str())
        );
    }
    Ok(())
}

/// True if the error, or one behind it, is that of a process that has used up its descriptors, buffers or memory.
fn is_shortage(error: &(dyn Error + 'static)) -> bool {
    let of_this_process = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::AGAIN, Errno::INTR];
    let mut error = Some(error);
    while let Some(one) = error {
        let errno = one.downcast_ref::<Errno>().copied();
        let errno = errno.or_else(|| Errno::from_io_error(one.downcast_ref::<io::Error>()?));
        if errno.is_some_and(|errno| of_this_process.contains(&errno)) {
            return true;
        }
        error = one.source();
    }
    false
}

/// The links for which it is on. Reads the setting of every link.
pub fn permitted_links() -> Vec<IfName> {
    let names = std::fs::read_dir(LINKS).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let on = names.filter(|name| !NO_LINKS.contains(&name.as_str()) && is_permitted(name));
    on.filter_map(|name| name.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn a_shortage_is_found_behind_other_errors() {
        let outer = |errno: Errno| Outer(io::Error::from(errno));
        for errno in [Errno::MFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(is_shortage(&outer(errno)) && is_shortage(&errno), "{errno:?}");
        }
        for errno in [Errno::PERM, Errno::OPNOTSUPP, Errno::EXIST] {
            assert!(!is_shortage(&outer(errno)), "{errno:?}");
        }
        assert!(!is_shortage(&Outer(io::Error::other("text"))));
    }
}
