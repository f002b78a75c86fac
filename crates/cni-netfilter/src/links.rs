//! Whether an interface exists, asked of the namespace that a socket belongs to: any socket will do.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::netdevice::{index_to_name_inlined, name_to_index};

/// True if there is an interface of this name, or if that cannot be determined.
pub(crate) fn name_exists(socket: impl AsFd, name: &str) -> bool {
    !matches!(name_to_index(socket.as_fd(), name), Err(Errno::NODEV))
}

/// The same for a name as the kernel stores it, padded with zeros.
pub(crate) fn padded_name_exists(socket: impl AsFd, name: &[u8]) -> bool {
    std::str::from_utf8(name).map_or(true, |name| name_exists(socket, name.trim_end_matches('\0')))
}

/// True if there is an interface with this index, or if that cannot be determined. It need not be the holder's: after a restart
/// of the node another link may have its index ([`crate::Netfilter::asking`]).
pub(crate) fn index_exists(_key: &str, index: Option<u32>) -> bool {
    let Some(index) = index else { return true };
    socket().is_none_or(|socket| !matches!(index_to_name_inlined(socket.as_fd(), index), Err(Errno::NODEV)))
}

/// A socket for such questions in the namespace of the calling thread.
fn socket() -> Option<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).ok()
}
