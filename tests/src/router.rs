//! A router that advertises itself and a prefix (RFC 4861), as an attacker or an uplink does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::netns::Netns;

/// A router advertisement for 2001:db8:bad::/64, default route and all, with its checksum (RFC 4861, 4.2 and 4.6).
fn advertisement() -> Vec<u8> {
    let mut body = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    // Source link-layer address 0a:00:00:00:00:66.
    body.extend([1, 1, 0x0a, 0, 0, 0, 0, 0x66]);
    body.extend([3, 4, 64, 0xc0, 0, 0x27, 0x8d, 0, 0, 0x09, 0x3a, 0x80, 0, 0, 0, 0]);
    body.extend([0x20, 1, 0x0d, 0xb8, 0x0b, 0xad, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    body
}

/// Sends advertisements from `eth0` of `attacker`, one a millisecond, until `stop` is set. The kernel computes their checksum.
pub fn advertise(attacker: &Netns, stop: &AtomicBool) {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn6, sendto, setsockopt, socket, sockopt,
    };
    use std::os::fd::AsRawFd as _;
    attacker.run(|| {
        let fd = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::empty(), nix::sys::socket::SockProtocol::IcmpV6)
            .expect("raw socket");
        // RFC 4861, 6.1.2: others drop what came over a router.
        setsockopt(&fd, sockopt::Ipv6MulticastHops, &255).expect("hop limit");
        let index = nix::net::if_::if_nametoindex("eth0").expect("eth0");
        let to = SockaddrIn6::from(std::net::SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index));
        while !stop.load(Ordering::Relaxed) {
            let _ = sendto(fd.as_raw_fd(), &advertisement(), &to, MsgFlags::empty());
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}
