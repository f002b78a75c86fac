//! IP addresses of links.

use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::{Errno, Failure, NoIpv6};
use crate::mtu::IPV6_MIN;
use crate::{Link, NetError, Netlink, Operation};

/// Between two looks at a link's addresses; one look takes some 50 µs.
const SETTLE_INTERVAL: Duration = Duration::from_millis(10);

/// An address as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Address {
    /// The address with its prefix length; the host's bits are kept.
    pub network: IpNetwork,
    /// The other end's address, on a point-to-point link.
    pub peer: Option<IpAddr>,
    /// It may not be used yet: duplicate address detection (RFC 4862) has not ended.
    pub tentative: bool,
    /// Duplicate address detection found that somebody else has it.
    pub dad_failed: bool,
    /// Valid on this link only.
    pub link_local: bool,
    /// It stays until it is deleted; one from a router's announcement does not.
    pub permanent: bool,
    /// IPv4: another address of the same subnet came first.
    pub secondary: bool,
}

/// How an address is added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AddressOptions {
    /// Skip IPv6's duplicate address detection: the address can be used at once.
    pub no_dad: bool,
    /// Add no route to the address's subnet.
    pub no_prefix_route: bool,
}

impl Netlink {
    /// The IPv4 and IPv6 addresses of the link. The kernel filters them.
    ///
    /// # Errors
    /// [`NetError::NoSuchLink`]; otherwise the kernel's.
    pub fn addresses(&self, index: u32) -> Result<Vec<Address>, NetError> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        let answers = self
            .dump(&RouteNetlinkMessage::GetAddress(message))
            .map_err(|failure| failure.during(self, Operation::ListAddresses { link: index.into() }))?;
        let of_this_link = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == index => Some(message),
            _ => None,
        });
        Ok(of_this_link.filter_map(|message| Address::from_message(&message)).collect())
    }

    /// The IPv6 addresses of all links, each with its link's index.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ipv6_addresses(&self) -> Result<Vec<(u32, Address)>, NetError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet6;
        let answers = self
            .dump(&RouteNetlinkMessage::GetAddress(message))
            .map_err(|failure| failure.during(self, Operation::ListAllAddresses { namespace: None }))?;
        let described = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => {
                Address::from_message(&message).map(|address| (message.header.index, address))
            }
            _ => None,
        });
        Ok(described.collect())
    }

    /// Waits until duplicate address detection has ended for all addresses of the link, or has failed for one, or
    /// `limit` is over, and returns the addresses as they are then: look at `tentative` and `dad_failed`.
    ///
    /// Detection takes one to two seconds, and does not start on a link without carrier.
    ///
    /// # Errors
    /// As [`Netlink::addresses`].
    pub fn settle_addresses(&self, index: u32, limit: Duration) -> Result<Vec<Address>, NetError> {
        let end = Instant::now() + limit;
        loop {
            let addresses = self.addresses(index)?;
            // An address that failed stays tentative for ever.
            let failed = addresses.iter().any(|address| address.dad_failed);
            let waiting = !failed && addresses.iter().any(|address| address.tentative);
            let left = end.saturating_duration_since(Instant::now());
            if !waiting || left.is_zero() {
                return Ok(addresses);
            }
            sleep(left.min(SETTLE_INTERVAL));
        }
    }

    /// Adds the address. Idempotent: false if the link has it already.
    ///
    /// IPv4 gets the subnet's broadcast address, except from /31 and /32, which have none (RFC 3021).
    ///
    /// # Errors
    /// [`NetError::Exists`] if the link has this IPv6 address with another prefix length, as a link can have it only
    /// once; [`NetError::NoIpv6`] if the link has none; [`NetError::NoSuchLink`]; otherwise the kernel's.
    pub fn add_address(&self, index: u32, address: IpNetwork, options: &AddressOptions) -> Result<bool, NetError> {
        let operation = Operation::AddAddress { link: index.into(), address };
        let message = RouteNetlinkMessage::NewAddress(address_message(index, address, options));
        match self.ask(message, NLM_F_CREATE | NLM_F_EXCL) {
            Ok(_) => Ok(true),
            Err(failure) if failure.is(Errno::EXIST) => {
                let same = |present: &Address| present.network.ip() == address.ip();
                match self.addresses(index)?.into_iter().find(same) {
                    Some(other) if address.is_ipv6() && other.network.prefix() != address.prefix() => {
                        let operation = operation.with_name(self);
                        Err(NetError::Exists { operation, name: other.network.to_string() })
                    }
                    _ => Ok(false),
                }
            }
            Err(failure) if address.is_ipv6() => Err(self.no_ipv6(index, address, failure)),
            Err(failure) => Err(failure.during(self, operation)),
        }
    }

    /// The kernel's error numbers don't tell much: `EACCES` for IPv6 that is switched off, and for a small MTU `EINVAL`
    /// or `ENOBUFS`, by its version.
    fn no_ipv6(&self, index: u32, address: IpNetwork, failure: Failure) -> NetError {
        match self.link_by_index(index) {
            Ok(Some(Link { name, mtu, .. })) if mtu < IPV6_MIN => {
                NetError::NoIpv6 { address, name, why: NoIpv6::SmallMtu { mtu } }
            }
            Ok(Some(Link { name, .. })) if failure.is(Errno::ACCES) => {
                let why = NoIpv6::disabled(&name);
                NetError::NoIpv6 { address, name, why }
            }
            _ => failure.during(self, Operation::AddAddress { link: index.into(), address }),
        }
    }

    /// Deletes the address. Idempotent: false if the link does not have it, or does not exist.
    ///
    /// Deleting the first IPv4 address of a subnet deletes the later ones too, unless `promote_secondaries` is set.
    ///
    /// # Errors
    /// The kernel's.
    pub fn delete_address(&self, index: u32, address: IpNetwork) -> Result<bool, NetError> {
        let message = address_message(index, address, &AddressOptions::default());
        match self.ask(RouteNetlinkMessage::DelAddress(message), 0) {
            Ok(_) => Ok(true),
            Err(failure) if failure.is(Errno::ADDRNOTAVAIL) || failure.is(Errno::NODEV) => Ok(false),
            Err(failure) => Err(failure.during(self, Operation::DeleteAddress { link: index.into(), address })),
        }
    }
}

fn address_message(index: u32, address: IpNetwork, options: &AddressOptions) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = address.prefix();
    message.attributes.push(AddressAttribute::Local(address.ip()));
    message.attributes.push(AddressAttribute::Address(address.ip()));
    if let IpNetwork::V4(network) = address
        && network.prefix() <= 30
    {
        message.attributes.push(AddressAttribute::Broadcast(network.broadcast()));
    }
    let mut flags = AddressFlags::empty();
    flags.set(AddressFlags::Nodad, options.no_dad);
    flags.set(AddressFlags::Noprefixroute, options.no_prefix_route);
    if !flags.is_empty() {
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    message
}

impl Address {
    pub(crate) fn from_message(message: &AddressMessage) -> Option<Address> {
        let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
        let (mut address, mut local) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Local(ip) => local = Some(*ip),
                // All 32 bits; the header has room for eight.
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        // IFA_ADDRESS is the peer where IFA_LOCAL is there and another one (include/uapi/linux/if_addr.h).
        let own = local.or(address)?;
        Some(Address {
            network: IpNetwork::new(own, message.header.prefix_len).ok()?,
            peer: address.filter(|peer| *peer != own),
            tentative: flags.contains(AddressFlags::Tentative),
            dad_failed: flags.contains(AddressFlags::Dadfailed),
            link_local: message.header.scope == AddressScope::Link,
            permanent: flags.contains(AddressFlags::Permanent),
            // The same bit is "temporary" (RFC 8981) in IPv6.
            secondary: own.is_ipv4() && flags.contains(AddressFlags::Secondary),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broadcast(address: &str) -> Option<String> {
        let message = address_message(1, address.parse().unwrap(), &AddressOptions::default());
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Broadcast(ip) => Some(ip.to_string()),
            _ => None,
        })
    }

    #[test]
    fn ipv4_subnets_get_their_broadcast_address() {
        assert_eq!(broadcast("10.1.2.3/24").as_deref(), Some("10.1.2.255"));
        assert_eq!(broadcast("10.1.2.5/30").as_deref(), Some("10.1.2.7"));
        assert_eq!(broadcast("10.1.2.3/0").as_deref(), Some("255.255.255.255"));
        for none in ["10.1.2.3/31", "10.1.2.3/32", "fd00::1/64"] {
            assert_eq!(broadcast(none), None, "{none}");
        }
    }
}
