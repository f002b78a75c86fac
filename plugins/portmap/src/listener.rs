//! Programs of the node that listen at a port that is about to be published: they are no longer reached by it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use cni_netfilter::{PortForward, PortForwards, Protocol};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};

/// So many ports are looked at; a longer list costs more than the warning is worth.
const LOOKED_AT: usize = 128;

/// Says on stderr which ports a socket of the node is bound to.
///
/// Never an error: conmon and CRI-O bind such a socket themselves to reserve the port.
pub fn warn(wanted: &[PortForwards]) {
    let ports = wanted.iter().flat_map(|forwards| &forwards.ports).take(LOOKED_AT);
    let taken: BTreeSet<String> =
        ports.filter(|port| is_bound(port)).map(|port| format!("{}/{}", port.host_port, port.protocol)).collect();
    if !taken.is_empty() {
        let list: Vec<String> = taken.into_iter().collect();
        eprintln!(
            "a program of this node is bound to host port {}: from now on the container gets what is sent there",
            list.join(", ")
        );
    }
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

/// With `SO_REUSEADDR` only a listener is in the way of another socket, and not a connection that has ended.
fn has_listener(at: SocketAddr) -> bool {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let bound = socket(family, SocketType::STREAM, None).and_then(|probe| {
        sockopt::set_socket_reuseaddr(&probe, true)?;
        bind(&probe, &at)
    });
    bound == Err(Errno::ADDRINUSE)
}
