//! Published ports as keys and values of map elements, and back.

use std::net::{IpAddr, SocketAddr};

use super::element::{Found, SetId, Value};
use super::expr::{self, Ip};
use super::portframe::{ADDRESS_CONDITIONS, ADDRESS_PORTS, CONDITIONS, PORTS, SOURCES, number, table};
use crate::{PortForward, Protocol};

/// A port in a concatenation: padded to a whole register.
fn port_bytes(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn protocol_bytes(protocol: Protocol) -> [u8; 4] {
    [number(protocol), 0, 0, 0]
}

/// The key of the element that forwards a port.
pub(super) fn forward_key(port: &PortForward) -> (SetId, Vec<u8>) {
    let table = table(Ip::of(port.to.ip()));
    let mut key = Vec::with_capacity(24);
    let name = match specified(port) {
        Some(address) => {
            key.extend(expr::octets(address));
            ADDRESS_PORTS
        }
        None => PORTS,
    };
    key.extend(protocol_bytes(port.protocol));
    key.extend(port_bytes(port.host_port));
    (SetId { table, name }, key)
}

/// The key of the element that leads to the conditions of a port.
pub(super) fn condition_key(port: &PortForward) -> (SetId, Vec<u8>) {
    let (set, key) = forward_key(port);
    let name = if set.name == PORTS { CONDITIONS } else { ADDRESS_CONDITIONS };
    (SetId { name, ..set }, key)
}

/// True for the elements of [`forward_key`].
pub(super) fn is_port(set: SetId) -> bool {
    [PORTS, ADDRESS_PORTS].contains(&set.name)
}

/// True for the elements of [`condition_key`].
pub(super) fn is_condition(set: SetId) -> bool {
    [CONDITIONS, ADDRESS_CONDITIONS].contains(&set.name)
}

/// The key of the element that chooses the translation of the source.
pub(super) fn source_key(port: &PortForward) -> (SetId, Vec<u8>) {
    let mut key = expr::octets(port.to.ip());
    key.extend(protocol_bytes(port.protocol));
    key.extend(port_bytes(port.to.port()));
    key.extend(port_bytes(port.host_port));
    (SetId { table: table(Ip::of(port.to.ip())), name: SOURCES }, key)
}

/// The host address that a port is published on; `0.0.0.0` and `::` mean every one.
pub(super) fn specified(port: &PortForward) -> Option<IpAddr> {
    port.host_ip.filter(|address| !address.is_unspecified())
}

pub(super) fn target(to: SocketAddr) -> Vec<u8> {
    let mut bytes = expr::octets(to.ip());
    bytes.extend(port_bytes(to.port()));
    bytes
}

pub(super) fn forward_name(port: &PortForward) -> String {
    match specified(port) {
        Some(address) => format!("host port {} {}", SocketAddr::new(address, port.host_port), port.protocol),
        None => format!("host port {} {}", port.host_port, port.protocol),
    }
}

/// The forward that an element stands for; `None` if it is another kind of element.
pub(super) fn read(set: SetId, found: &Found) -> Option<PortForward> {
    let Value::Data(value) = &found.value else { return None };
    let (address, key) = match set.name {
        PORTS => (None, &found.key[..]),
        ADDRESS_PORTS => {
            found.key.split_at_checked(found.key.len().checked_sub(8)?).map(|(ip, key)| (Some(ip), key))?
        }
        _ => return None,
    };
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let (to, port) = value.split_at_checked(value.len().checked_sub(4)?)?;
    Some(PortForward {
        protocol: protocols.into_iter().find(|protocol| key.first() == Some(&number(*protocol)))?,
        host_ip: address.map(read_address).unwrap_or_default(),
        host_port: read_port(key.get(4..)?)?,
        to: SocketAddr::new(read_address(to)?, read_port(port)?),
    })
}

fn read_port(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|port| u16::from_be_bytes(*port))
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4().or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (host_ip, to) in [
            (None, "10.0.0.2:80"),
            (Some("192.0.2.1"), "10.0.0.2:80"),
            (None, "[fd00::2]:80"),
            (Some("2001:db8::1"), "[fd00::2]:65535"),
        ] {
            let host_ip = host_ip.map(|ip| ip.parse().unwrap());
            let port = PortForward { protocol: Protocol::Udp, host_ip, host_port: 53, to: to.parse().unwrap() };
            let (set, key) = forward_key(&port);
            let found = Found { key, value: Value::Data(target(port.to)), comment: String::new() };
            assert_eq!(read(set, &found), Some(port));
            assert_eq!(read(SetId { name: SOURCES, ..set }, &found), None);
        }
    }
}
