//! Real packets between namespaces: servers that answer with what they saw, clients that say what they got.
//!
//! A socket belongs to the namespace in which it was made and can be used from anywhere, so no process is needed for it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::netns::Netns;

/// How often a server looks whether it should end.
const TICK: Duration = Duration::from_millis(5);

/// The protocols that can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proto {
    /// A stream.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Proto {
    /// As `portMappings` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A server that answers every client with `<label> <address it saw>`. Ends when dropped, and its sockets are closed then.
#[derive(Debug)]
pub struct Server {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Serves both protocols and both families on `port` in `ns`.
    pub fn start(ns: &Netns, label: &str, port: u16) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        // A socket on :: takes IPv4 too and collides with the one on 0.0.0.0, so one of them is enough.
        let (tcp, udp) = ns.run(|| {
            let at = SocketAddr::new(if has_ipv6() { any[1] } else { any[0] }, port);
            (TcpListener::bind(at).expect("listen"), UdpSocket::bind(at).expect("bind"))
        });
        let (ends, text) = (Arc::clone(&end), label.to_owned());
        let streams = thread::spawn(move || serve_tcp(&tcp, &text, &ends));
        let (ends, text) = (Arc::clone(&end), label.to_owned());
        let datagrams = thread::spawn(move || serve_udp(&udp, &text, &ends));
        Self { end, threads: vec![streams, datagrams] }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn has_ipv6() -> bool {
    std::path::Path::new("/proc/net/if_inet6").exists()
}

fn serve_tcp(listener: &TcpListener, label: &str, end: &AtomicBool) {
    listener.set_nonblocking(true).expect("nonblocking");
    while !end.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, peer)) => {
                let _ = stream.write_all(seen(label, peer).as_bytes());
            }
            Err(_) => thread::sleep(TICK),
        }
    }
}

fn serve_udp(socket: &UdpSocket, label: &str, end: &AtomicBool) {
    socket.set_read_timeout(Some(TICK)).expect("timeout");
    while !end.load(Ordering::Relaxed) {
        let mut buffer = [0; 64];
        if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(seen(label, peer).as_bytes(), peer);
        }
    }
}

fn seen(label: &str, peer: SocketAddr) -> String {
    format!("{label} {}", peer.ip().to_canonical())
}

/// Asks the server at `to` from `ns`; the answer is `<label> <address it saw>`.
///
/// # Errors
/// No answer within 3 s, or a refusal.
pub fn ask(ns: &Netns, proto: Proto, to: SocketAddr) -> io::Result<String> {
    ask_within(ns, proto, to, Duration::from_secs(10))
}

/// True if no program answers at `to`: refused, or silent for 400 ms.
pub fn silent(ns: &Netns, proto: Proto, to: SocketAddr) -> bool {
    ask_within(ns, proto, to, Duration::from_millis(400)).is_err()
}

fn ask_within(ns: &Netns, proto: Proto, to: SocketAddr, patience: Duration) -> io::Result<String> {
    ns.run(|| match proto {
        Proto::Tcp => {
            let mut stream = TcpStream::connect_timeout(&to, patience)?;
            stream.set_read_timeout(Some(patience))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        }
        Proto::Udp => {
            let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(to)?;
            exchange(&socket, patience)
        }
    })
}

/// Sends until an answer comes, for a datagram may be lost while a neighbour is looked up.
fn exchange(socket: &UdpSocket, patience: Duration) -> io::Result<String> {
    let rounds = 4;
    socket.set_read_timeout(Some(patience / rounds))?;
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..rounds {
        let mut buffer = [0; 256];
        match socket.send(b"?").and_then(|_| socket.recv(&mut buffer)) {
            Ok(size) => return Ok(String::from_utf8_lossy(&buffer[..size]).into_owned()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// True if `to` answers an ICMP echo request from `ns` within 4 s: a fresh IPv6 address isn't used as a source at once.
pub fn ping(ns: &Netns, to: &str) -> bool {
    ns.holds(&["ping", "-n", "-q", "-c", "1", "-w", "4", to])
}

/// A host behind the node's uplink, the node's default gateway in both families.
#[derive(Debug)]
pub struct Outside {
    /// Its namespace.
    pub ns: Netns,
}

impl Outside {
    /// Its own addresses.
    pub const V4: &'static str = "192.0.2.2";
    /// Its own IPv6 address.
    pub const V6: &'static str = "2001:db8:99::2";
    /// The node's addresses on the uplink.
    pub const NODE_V4: &'static str = "192.0.2.1";
    /// The node's IPv6 address on the uplink.
    pub const NODE_V6: &'static str = "2001:db8:99::1";

    pub(crate) fn create(ns: Netns) -> Self {
        let node = Netns::node();
        ns.sh(&["ip", "link", "set", "lo", "up"]);
        node.sh(&["ip", "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", &ns.name]);
        for (at, link, v4, v6) in [(&node, "up0", Self::NODE_V4, Self::NODE_V6), (&ns, "eth0", Self::V4, Self::V6)] {
            at.sh(&["ip", "addr", "add", &format!("{v4}/24"), "dev", link]);
            at.sh(&["ip", "addr", "add", &format!("{v6}/64"), "dev", link, "nodad"]);
            at.sh(&["ip", "link", "set", link, "up"]);
        }
        node.sh(&["ip", "route", "add", "default", "via", Self::V4]);
        node.sh(&["ip", "-6", "route", "add", "default", "via", Self::V6]);
        Self { ns }
    }
}

/// A socket address from text; for tables of cases.
pub fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an IP address"), port)
}
