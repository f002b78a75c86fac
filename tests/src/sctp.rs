//! SCTP without the kernel's SCTP sockets, which it may lack: an association's first packet, by raw sockets.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::Netns;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recvfrom, sendmsg, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// How long a packet that should arrive may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a packet that should not arrive is waited for.
const SILENCE: Duration = Duration::from_millis(400);

/// Everything SCTP that arrives in a namespace, by one family.
pub struct Listener {
    socket: OwnedFd,
    v6: bool,
}

/// A packet that arrived: the source that the listener saw, and the port it was for.
type Heard = (IpAddr, u16);

impl Listener {
    /// Hears what arrives in `ns` from now on, by IPv6 or by IPv4.
    pub fn start(ns: &Netns, v6: bool) -> Self {
        let socket = ns.run(|| raw(v6));
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)).expect("a timeout");
        Self { socket, v6 }
    }

    /// What arrives of the packets that are sent from each namespace to each address. Those that `should` arrive are sent
    /// again until they do.
    pub fn hears(&self, port: u16, asked: &[(&Netns, IpAddr, bool)]) -> Vec<Option<Heard>> {
        let mut heard = BTreeMap::new();
        let begin = Instant::now();
        let missing = |heard: &BTreeMap<usize, Heard>, n: &usize| asked[*n].2 && !heard.contains_key(n);
        for round in 0u16.. {
            let wanted: Vec<usize> = (0..asked.len()).filter(|n| round == 0 || missing(&heard, n)).collect();
            for n in &wanted {
                let (from, to, _) = asked[*n];
                // Of another port each time: conntrack takes a repeated one for what it has seen.
                let packet = init(33_000 + round, port, u32::try_from(*n).unwrap() + 1);
                from.run(|| send(&packet, to));
            }
            let end = Instant::now() + SILENCE;
            while Instant::now() < end && (round == 0 || wanted.iter().any(|n| missing(&heard, n))) {
                heard.extend(self.receive());
            }
            if !wanted.iter().any(|n| missing(&heard, n)) || begin.elapsed() > PATIENCE {
                break;
            }
        }
        (0..asked.len()).map(|n| heard.remove(&n)).collect()
    }

    /// The next packet, by the number that its sender gave it.
    fn receive(&self) -> Option<(usize, Heard)> {
        let mut buffer = [0; 256];
        let (size, from) = recvfrom::<SockaddrStorage>(self.socket.as_raw_fd(), &mut buffer).ok()?;
        let from = from?;
        let v4 = from.as_sockaddr_in().map(|at| IpAddr::V4(at.ip()));
        let source = v4.or_else(|| from.as_sockaddr_in6().map(|at| IpAddr::V6(at.ip())))?;
        // An IPv4 raw socket gets the header of the packet too.
        let header = if self.v6 { 0 } else { usize::from(buffer[0] & 15) * 4 };
        let packet = buffer[..size].get(header..)?;
        let port = u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?);
        let tag = u32::from_be_bytes(packet.get(16..20)?.try_into().ok()?);
        Some((usize::try_from(tag).ok()?.checked_sub(1)?, (source, port)))
    }
}

fn raw(v6: bool) -> OwnedFd {
    let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Sctp).expect("a raw socket")
}

/// Where there is no way, nothing is sent.
fn send(packet: &[u8], to: IpAddr) {
    let to = SockaddrStorage::from(SocketAddr::new(to, 0));
    let _ = sendmsg(
        raw(to.as_sockaddr_in6().is_some()).as_raw_fd(),
        &[IoSlice::new(packet)],
        &[],
        MsgFlags::empty(),
        Some(&to),
    );
}

/// A common header and an INIT chunk with the tag (RFC 9260, 3.1 and 3.3.2). Conntrack looks at the checksum.
fn init(from: u16, to: u16, tag: u32) -> Vec<u8> {
    let mut packet = [from.to_be_bytes(), to.to_be_bytes()].concat();
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20]);
    packet.extend(tag.to_be_bytes());
    packet.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}
