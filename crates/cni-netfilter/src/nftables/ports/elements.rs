//! Published ports as keys and values of map elements, and back.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use cni_plugin::{Family, Protocol};

use crate::intent::PortForward;
use crate::nftables::ruleset::{Found, Key, SetId, Value, data};
use crate::nftables::wire::{Table, TableFamily};

/// The tables' name.
pub(super) const NAME: &str = "cni_ports";
/// Published on every local address.
pub(super) const PORTS: &str = "ports";
/// Published on one address.
pub(super) const ADDRESS_PORTS: &str = "address_ports";
/// Ports in [`PORTS`] and [`ADDRESS_PORTS`] that are forwarded only if their owner's conditions hold.
pub(super) const CONDITIONS: &str = "conditions";
pub(super) const ADDRESS_CONDITIONS: &str = "address_conditions";
/// The waitlist: ports that another attachment of the same container serves.
pub(super) const WAITLIST: &str = "claims";
/// Shared ports, by how many members they have, and the members.
pub(super) const SHARES: &str = "shares";
pub(super) const ADDRESS_SHARES: &str = "address_shares";
pub(super) const MEMBERS: &str = "members";
pub(super) const ADDRESS_MEMBERS: &str = "address_members";
/// Forwarded connections whose source is translated.
pub(super) const SOURCES: &str = "sources";

/// The table of a family.
pub(super) fn table(family: Family) -> Table<'static> {
    Table { family: family.into(), name: NAME }
}

fn key(port: &PortForward, on_all: &'static str, on_address: &'static str) -> Key {
    let (name, address) = match port.specified_ip() {
        Some(address) => (on_address, data::address(address)),
        None => (on_all, Vec::new()),
    };
    let table = table(Family::of(port.to.ip()));
    let bytes = [&address[..], &data::protocol(port.protocol), &data::port(port.host_port)].concat();
    Key::new(SetId { table, name }, bytes)
}

/// The key of the element that forwards a port.
pub(super) fn forward_key(port: &PortForward) -> Key {
    key(port, PORTS, ADDRESS_PORTS)
}

/// The key of the element that leads to the conditions of a port.
pub(super) fn condition_key(port: &PortForward) -> Key {
    key(port, CONDITIONS, ADDRESS_CONDITIONS)
}

/// The key of the element that chooses the translation of the source.
pub(super) fn source_key(port: &PortForward) -> Key {
    let (address, protocol) = (data::address(port.to.ip()), data::protocol(port.protocol));
    let bytes = [&address[..], &protocol, &data::port(port.to.port()), &data::port(port.host_port)].concat();
    Key::new(SetId { table: table(Family::of(port.to.ip())), name: SOURCES }, bytes)
}

/// The value of the element that forwards a port.
pub(super) fn target(to: SocketAddr) -> Value {
    Value::Data([&data::address(to.ip())[..], &data::port(to.port())].concat())
}

/// The forward that an element stands for; `None` if it is another kind of element.
pub(crate) fn read(Found { key, value, .. }: &Found) -> Option<PortForward> {
    read_parts(key, value)
}

/// An element that forwards a port, in the words of a message.
pub(super) fn describe(key: &Key) -> String {
    let any = if key.set.table.family == TableFamily::Ip {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    read_port(key, SocketAddr::new(any, 0)).map_or_else(|| "a port".to_owned(), |port| port.name())
}

fn read_parts(key: &Key, value: &Value) -> Option<PortForward> {
    let Value::Data(value) = value else { return None };
    let (to, to_port) = value.split_at_checked(value.len().checked_sub(4)?)?;
    read_port(key, SocketAddr::new(data::read_address(to)?, data::read_port(to_port)?))
}

/// The forward of a port, or a member's of a shared one.
fn read_port(key: &Key, to: SocketAddr) -> Option<PortForward> {
    let (has_address, rank) = match key.set.name {
        PORTS => (false, 0),
        ADDRESS_PORTS => (true, 0),
        MEMBERS => (false, 4),
        ADDRESS_MEMBERS => (true, 4),
        _ => return None,
    };
    let bytes = key.bytes.get(..key.bytes.len().checked_sub(rank)?)?;
    let (address, port) = if has_address {
        let (address, port) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
        (data::read_address(address), port)
    } else {
        (None, bytes)
    };
    Some(PortForward {
        protocol: Protocol::from_number(*port.first()?)?,
        host_ip: address,
        host_port: data::read_port(port.get(4..)?)?,
        to,
    })
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
            let key = forward_key(&port);
            assert_eq!(read_parts(&key, &target(port.to)), Some(port));
            let set = SetId { name: SOURCES, ..key.set };
            assert_eq!(read_parts(&Key { set, ..key }, &target(port.to)), None);
        }
    }
}
