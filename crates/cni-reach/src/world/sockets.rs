//! Programs that wait for packets: `/proc/net/tcp` and its like (proc_net_tcp in the kernel's documentation).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use cni_net::NetNs;
use cni_plugin::Protocol;

use super::command;

/// `TCP_LISTEN` (include/net/tcp_states.h).
const LISTENING: &str = "0A";

/// The addresses that programs of the namespace accept packets on; empty for SCTP, which is not looked at.
pub(crate) fn listening(namespace: &NetNs, protocol: Protocol) -> Vec<SocketAddr> {
    let name = protocol.name();
    let mut found = Vec::new();
    for file in [name.to_owned(), format!("{name}6")] {
        let text = command::read(namespace, &format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(|line| read(line, protocol)));
    }
    found
}

fn read(line: &str, protocol: Protocol) -> Option<SocketAddr> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    let listens = match protocol {
        Protocol::Tcp => state == LISTENING,
        // A connected socket takes packets of its peer only.
        _ => remote.ends_with(":0000"),
    };
    if !listens { None } else { endpoint(local) }
}

/// `0100007F:0050`: the address as the machine's 32-bit words.
fn endpoint(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let words: Option<Vec<u8>> = (0..address.len() / 8)
        .map(|word| u32::from_str_radix(address.get(word * 8..word * 8 + 8)?, 16).ok())
        .collect::<Option<Vec<u32>>>()
        .map(|words| words.into_iter().flat_map(u32::to_ne_bytes).collect());
    let bytes = words?;
    let address: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(address.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

/// True if a program that listens on `socket` gets what is for `to`. One on `::` gets IPv4 too, unless it asked not to
/// (`IPV6_V6ONLY`), which is not shown.
pub(crate) fn accepts(socket: SocketAddr, to: SocketAddr) -> bool {
    let is_any = match (socket.ip(), to.ip()) {
        (IpAddr::V4(any), IpAddr::V4(_)) => any.is_unspecified(),
        (IpAddr::V6(any), _) => any.is_unspecified(),
        _ => false,
    };
    socket.port() == to.port() && (is_any || socket.ip() == to.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn sockets_are_read_as_the_kernel_prints_them() {
        let line = "   0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1";
        assert_eq!(read(line, Protocol::Tcp), "127.0.0.1:80".parse().ok());
        let established = "   0: 0100007F:0050 0100007F:8000 01 00000000:00000000 00:00000000 00000000 0 0 1 1";
        assert_eq!(read(established, Protocol::Tcp), None);
        assert_eq!(read(established, Protocol::Udp), None);
        let six = "   0: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07 0 0 0 0 0 0";
        assert_eq!(read(six, Protocol::Udp), "[::]:53".parse().ok());
    }

    #[test]
    fn any_address_accepts_all() {
        let at = |text: &str| text.parse().unwrap_or_else(|_| unreachable!());
        assert!(accepts(at("0.0.0.0:80"), at("10.0.0.1:80")));
        assert!(accepts(at("[::]:80"), at("10.0.0.1:80")));
        assert!(!accepts(at("0.0.0.0:80"), at("[fd00::1]:80")));
        assert!(!accepts(at("127.0.0.1:80"), at("10.0.0.1:80")));
        assert!(!accepts(at("0.0.0.0:80"), at("10.0.0.1:81")));
    }
}
