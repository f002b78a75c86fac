//! Finds programs of the node that listen on a port that is about to be published: connections no longer reach them.
//!
//! A port that can't be bound may only be the local port of an outgoing connection. The lists in `/proc/net` distinguish those,
//! and how far they have to be read doesn't depend on the number of connections.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use cni_netfilter::{PortForward, PortForwards};
use cni_plugin::Protocol;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};

use crate::mapping::{HostPort, in_words};

/// Up to this many ports are tried to bind first, which takes microseconds each; of more, only those in the lists.
const TRIED_FIRST: usize = 128;

/// Writes to stderr the ports on which a program of the node listens.
///
/// Never an error: conmon and CRI-O hold such a socket themselves to reserve the port.
pub fn warn(wanted: &[PortForwards]) {
    let mut ports: Vec<&PortForward> = wanted.iter().flat_map(|forwards| &forwards.ports).collect();
    if ports.len() <= TRIED_FIRST {
        ports.retain(|port| is_bound(port));
    }
    let protocols: BTreeSet<Protocol> = ports.iter().map(|port| port.protocol).collect();
    let served: BTreeMap<_, _> = protocols.into_iter().map(|protocol| (protocol, served(protocol))).collect();
    ports.retain(|port| served[&port.protocol].contains(&port.host_port) && is_bound(port));
    let taken: BTreeSet<HostPort> = ports.iter().map(|port| (port.protocol, None, port.host_port)).collect();
    if !taken.is_empty() {
        eprintln!(
            "a program of this node is bound to host port {}: from now on the container receives the packets to it",
            in_words(&taken)
        );
    }
}

/// The ports with a TCP listener or a UDP socket that is not connected, on any address of either family. None if the lists
/// can't be read.
fn served(protocol: Protocol) -> BTreeSet<u16> {
    // TCP_LISTEN and TCP_CLOSE (net/tcp_states.h); a connected UDP socket is in TCP_ESTABLISHED.
    let (names, state) = match protocol {
        Protocol::Tcp => (["tcp", "tcp6"], "0A"),
        Protocol::Udp => (["udp", "udp6"], "07"),
        Protocol::Sctp => return BTreeSet::new(),
    };
    let files = names.iter().filter_map(|name| File::open(format!("/proc/thread-self/net/{name}")).ok());
    let ports = files.flat_map(|file| {
        let lines = BufReader::new(file).lines().map_while(Result::ok).skip(1);
        let sockets = lines.map(|line| local_port(&line, state));
        // Listeners come first, before the connections.
        let first = sockets.take_while(move |port| protocol == Protocol::Udp || port.is_some());
        first.flatten().collect::<Vec<_>>()
    });
    ports.collect()
}

/// The local port of a line `0: 0100007F:1F90 00000000:0000 0A …`, if the socket is in that state.
fn local_port(line: &str, state: &str) -> Option<u16> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, found) = (fields.next()?, fields.nth(1)?);
    let (_, port) = local.rsplit_once(':')?;
    (found == state).then(|| u16::from_str_radix(port, 16).ok()).flatten()
}

/// SCTP sockets are rare, and a kernel may lack them.
fn is_bound(port: &PortForward) -> bool {
    let any: IpAddr = if port.to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let at = SocketAddr::new(port.host_ip.unwrap_or(any), port.host_port);
    match port.protocol {
        Protocol::Udp => UdpSocket::bind(at).is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse),
        Protocol::Tcp => has_listener(at),
        Protocol::Sctp => false,
    }
}

/// With `SO_REUSEADDR` bind(2) fails only because of a listener, and not because of a connection in TIME_WAIT.
fn has_listener(at: SocketAddr) -> bool {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let bound = socket(family, SocketType::STREAM, None).and_then(|probe| {
        sockopt::set_socket_reuseaddr(&probe, true)?;
        bind(&probe, &at)
    });
    bound == Err(Errno::ADDRINUSE)
}

#[cfg(test)]
mod tests {
    use super::local_port;

    #[test]
    fn a_port_is_read_from_the_list() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1";
        assert_eq!(local_port(line, "0A"), Some(8080));
        assert_eq!(local_port(line, "07"), None);
        let line = " 9: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07 0:0";
        assert_eq!(local_port(line, "07"), Some(53));
        assert_eq!(local_port("", "07"), None);
    }
}
