//! The container's link, as the client needs it: found in its namespace, up, and with sockets that work before it has an address.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use cni_net::{LinkChange, NetError, NetNs, NetNsError, Netlink};
use cni_plugin::{IfName, MacAddr};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use nix::ifaddrs::getifaddrs;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, eth, recv, send, socket_with};
use serde::{Deserialize, Serialize};

/// The ports of DHCPv4 (RFC 2131, 4.1).
const CLIENT: u16 = 68;
const SERVER: u16 = 67;
/// What is received at most, in bytes: an Ethernet frame with a full IPv4 packet of the usual MTU, and room for jumbo frames.
const FRAME: usize = 9216;
/// How long one sleep may last: so soon an end that is asked for is noticed.
pub const SLICE: Duration = Duration::from_millis(100);

/// Why the link can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The namespace.
    #[error(transparent)]
    Namespace(#[from] NetNsError),
    /// The kernel.
    #[error(transparent)]
    Net(#[from] NetError),
    /// It is not there.
    #[error("there is no link {0} in the container's namespace")]
    Absent(IfName),
    /// No Ethernet address.
    #[error("link {0} has no Ethernet address, which DHCP needs")]
    NoMac(IfName),
    /// A socket.
    #[error("{doing}: {source}")]
    Socket {
        /// What was being done.
        doing: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// The lease is to end, or the daemon.
    #[error("the lease was ended while the server was being asked")]
    Stopped,
}

/// Makes an error of a socket's.
fn failed<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> LinkError {
    move |error| LinkError::Socket { doing, source: error.into() }
}

/// Which link it is: another one under the same name isn't it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkId {
    /// The namespace's inode.
    pub namespace: u64,
    /// The link's index there.
    pub index: u32,
    /// Its name.
    pub ifname: IfName,
    /// Its address.
    pub mac: MacAddr,
}

impl LinkId {
    /// Finds the link and sets it up, waiting for it until `until`: the plugin that creates it may still be running.
    pub fn find(netns: &Path, ifname: &IfName, until: Instant, stops: &dyn Fn() -> bool) -> Result<Self, LinkError> {
        let namespace = NetNs::open(netns)?;
        let socket = Netlink::open_in(&namespace)?;
        loop {
            if let Some(link) = socket.link_by_name(ifname.as_str())? {
                let mac = link.mac.ok_or_else(|| LinkError::NoMac(ifname.clone()))?;
                if !link.up {
                    socket.change_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
                }
                return Ok(Self { namespace: namespace.inode(), index: link.index, ifname: ifname.clone(), mac });
            }
            if stops() {
                return Err(LinkError::Stopped);
            }
            if Instant::now() >= until {
                return Err(LinkError::Absent(ifname.clone()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The namespace, if it and the link are still there. It isn't kept open between two looks: the daemon must not keep a
    /// container's namespace alive.
    pub fn open(&self, netns: &Path) -> Option<NetNs> {
        let namespace = NetNs::open(netns).ok().filter(|found| found.inode() == self.namespace)?;
        let link = Netlink::open_in(&namespace).ok()?.link_by_index(self.index).ok()??;
        (link.mac == Some(self.mac)).then_some(namespace)
    }

    /// Sets the link down. Idempotent.
    pub fn set_down(&self, namespace: &NetNs) -> Result<(), LinkError> {
        let socket = Netlink::open_in(namespace)?;
        Ok(socket.change_link(self.index, &LinkChange { up: Some(false), ..LinkChange::default() })?)
    }
}

/// A packet socket on a link, for DHCPv4 messages before, and without, an address of it.
pub struct Raw {
    fd: OwnedFd,
    mac: MacAddr,
}

impl Raw {
    /// Opens one on the link. The calling thread is in its namespace.
    pub fn open(link: &LinkId) -> Result<Self, LinkError> {
        let opening = "cannot open a packet socket";
        let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, Some(eth::IP))
            .map_err(failed(opening))?;
        let addresses = getifaddrs().map_err(failed(opening))?;
        let of_link = |name: &str| name == link.ifname.as_str();
        let address = addresses
            .filter(|found| of_link(&found.interface_name))
            .find_map(|found| found.address.and_then(|address| address.as_link_addr().copied()))
            .ok_or_else(|| LinkError::Absent(link.ifname.clone()))?;
        nix::sys::socket::bind(fd.as_raw_fd(), &address).map_err(failed("cannot bind a packet socket"))?;
        Ok(Self { fd, mac: link.mac })
    }

    /// Sends a message to all servers on the link, from this address.
    pub fn broadcast(&self, source: Ipv4Addr, payload: &[u8]) -> Result<(), LinkError> {
        self.send((source, Ipv4Addr::BROADCAST), payload)
    }

    /// Sends a message to one server, whose Ethernet address isn't known: in a broadcast frame.
    pub fn send(&self, (source, to): (Ipv4Addr, Ipv4Addr), payload: &[u8]) -> Result<(), LinkError> {
        let builder =
            PacketBuilder::ethernet2(self.mac.0, [0xff; 6]).ipv4(source.octets(), to.octets(), 64).udp(CLIENT, SERVER);
        let mut frame = Vec::with_capacity(builder.size(payload.len()));
        let doing = "cannot send on the container's link";
        builder
            .write(&mut frame, payload)
            .map_err(|error| LinkError::Socket { doing, source: io::Error::other(error) })?;
        send(&self.fd, &frame, SendFlags::empty()).map(drop).map_err(failed(doing))
    }

    /// The first message that `accept` takes, until `until`; `None` if there is none.
    pub fn receive<T>(
        &self,
        until: Instant,
        stops: &dyn Fn() -> bool,
        accept: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, LinkError> {
        let mut frame = [0; FRAME];
        loop {
            if stops() {
                return Err(LinkError::Stopped);
            }
            let Some(rest) = until.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) else {
                return Ok(None);
            };
            let doing = "cannot receive on the container's link";
            if !readable(&self.fd, rest.min(SLICE)).map_err(failed(doing))? {
                continue;
            }
            let length = match recv(&self.fd, &mut frame, RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(failed(doing)(error)),
            };
            if let Some(taken) = frame.get(..length).and_then(payload).and_then(&accept) {
                return Ok(Some(taken));
            }
        }
    }
}

/// The DHCP message in an Ethernet frame to a client.
fn payload(frame: &[u8]) -> Option<&[u8]> {
    // A fragment has no UDP header to be found.
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    match (&packet.net, &packet.transport) {
        (Some(NetSlice::Ipv4(_)), Some(TransportSlice::Udp(udp))) if udp.destination_port() == CLIENT => {
            Some(udp.payload())
        }
        _ => None,
    }
}

fn readable(fd: &OwnedFd, limit: Duration) -> rustix::io::Result<bool> {
    let timeout = Timespec::try_from(limit).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
    let mut polled = [PollFd::new(fd, PollFlags::IN)];
    match poll(&mut polled, Some(&timeout)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A UDP socket from the lease's address to its server. The calling thread is in the link's namespace.
pub fn unicast(address: Ipv4Addr, server: Ipv4Addr) -> Result<UdpSocket, LinkError> {
    let socket =
        UdpSocket::bind(SocketAddrV4::new(address, CLIENT)).map_err(failed("cannot bind to the lease's address"))?;
    socket.connect(SocketAddrV4::new(server, SERVER)).map_err(failed("cannot reach the DHCP server"))?;
    Ok(socket)
}

/// The first datagram that `accept` takes, until `until`.
pub fn receive<T>(
    socket: &UdpSocket,
    until: Instant,
    stops: &dyn Fn() -> bool,
    accept: impl Fn(&[u8]) -> Option<T>,
) -> Result<Option<T>, LinkError> {
    let mut buffer = [0; FRAME];
    let doing = "cannot receive from the DHCP server";
    loop {
        if stops() {
            return Err(LinkError::Stopped);
        }
        let Some(rest) = until.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) else {
            return Ok(None);
        };
        socket.set_read_timeout(Some(rest.min(SLICE))).map_err(failed(doing))?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                if let Some(taken) = buffer.get(..length).and_then(&accept) {
                    return Ok(Some(taken));
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(failed(doing)(error)),
        }
    }
}

/// The link's own link-local address, once it may be used; waits for duplicate address detection until `until`. The calling
/// thread is in the link's namespace.
pub fn link_local(link: &LinkId, until: Instant, stops: &dyn Fn() -> bool) -> Result<Ipv6Addr, LinkError> {
    let socket = Netlink::open()?;
    loop {
        let found = socket.addresses(link.index)?;
        let usable = found.iter().filter(|address| !address.tentative && !address.dad_failed);
        let local = usable.filter_map(|address| match address.network.ip() {
            std::net::IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(ip),
            _ => None,
        });
        if let Some(ip) = local.into_iter().next() {
            return Ok(ip);
        }
        if stops() {
            return Err(LinkError::Stopped);
        }
        if Instant::now() >= until {
            return Err(LinkError::Socket {
                doing: "the link has no link-local IPv6 address, which DHCPv6 needs",
                source: io::ErrorKind::AddrNotAvailable.into(),
            });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
