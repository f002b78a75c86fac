//! Error numbers of the kernel.

use std::io;

/// The error numbers that have a meaning of their own here.
pub(crate) struct Errno;

impl Errno {
    pub(crate) const PERM: i32 = rustix::io::Errno::PERM.raw_os_error();
    pub(crate) const ACCES: i32 = rustix::io::Errno::ACCESS.raw_os_error();
    pub(crate) const NOENT: i32 = rustix::io::Errno::NOENT.raw_os_error();
    pub(crate) const SRCH: i32 = rustix::io::Errno::SRCH.raw_os_error();
    pub(crate) const INVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();
    pub(crate) const EXIST: i32 = rustix::io::Errno::EXIST.raw_os_error();
    pub(crate) const NODEV: i32 = rustix::io::Errno::NODEV.raw_os_error();
    pub(crate) const OPNOTSUPP: i32 = rustix::io::Errno::OPNOTSUPP.raw_os_error();
    pub(crate) const NOBUFS: i32 = rustix::io::Errno::NOBUFS.raw_os_error();
    pub(crate) const ADDRINUSE: i32 = rustix::io::Errno::ADDRINUSE.raw_os_error();
    pub(crate) const ADDRNOTAVAIL: i32 = rustix::io::Errno::ADDRNOTAVAIL.raw_os_error();
    pub(crate) const PROTONOSUPPORT: i32 = rustix::io::Errno::PROTONOSUPPORT.raw_os_error();
    pub(crate) const NETUNREACH: i32 = rustix::io::Errno::NETUNREACH.raw_os_error();
    pub(crate) const HOSTUNREACH: i32 = rustix::io::Errno::HOSTUNREACH.raw_os_error();
}

/// The end of a message: which capability (capabilities(7)) the operation needs, if it failed for lack of rights.
pub(crate) fn needs(source: &io::Error, capability: &str) -> String {
    if source.raw_os_error() == Some(Errno::PERM) { format!("; {capability} is needed") } else { String::new() }
}
