//! `route_localnet`: whether routing lets packets from and for 127.0.0.0/8 through a link. Where it is on, neighbours reach
//! what listens on the node's own 127.0.0.1, unless something drops their packets (CVE-2020-8558).
//!
//! That something is packet rules, and they can be flushed while the settings stay. So the node remembers, until it is
//! started again, that a plugin has switched one on: every later call sees in constant time that a guard has to be there,
//! whichever link and network it is for.

use std::error::Error;
use std::io;

use cni_plugin::IfName;
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use crate::{SysctlError, sysctl};

/// The guard of 127.0.0.0/8 could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum LocalnetError {
    /// There is no guard, and the setting can't be switched off either.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// This process lacks what it takes to look: descriptors, buffers, memory. Nothing was changed.
    #[error("cannot see whether packets for 127.0.0.0/8 from other hosts are dropped: {0}")]
    Shortage(String),
}

/// An empty file, in a directory where only root can make it. Like the settings, it is gone after a restart of the node.
const MARK: &str = "/run/cni-plugins.localnet";
const LINKS: &str = "/proc/sys/net/ipv4/conf";
/// No links of others: the node's own, and settings for all.
const NO_LINKS: [&str; 3] = ["all", "default", "lo"];

/// Switches it on. Idempotent. Where the node's memory can't be written it is done without.
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
/// be idempotent. Where it can't be made, the setting is switched off for these links, and if a plugin has switched any on, for
/// all: a port on 127.0.0.1 that doesn't answer does less harm than an open 127.0.0.1. That is said on stderr.
///
/// # Errors
/// [`LocalnetError::Shortage`] if `guard` failed for lack of something that this process was short of: then nothing is known,
/// and other containers' ports are left alone. [`LocalnetError::Sysctl`] if the setting can't be switched off.
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
            "{} is off now, as packets for 127.0.0.0/8 from there can't be dropped: {error}",
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

/// The links for which it is on, whoever has switched it on. Reads the setting of every link.
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
