//! IP addresses of links.

mod all_namespaces;

use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};

use crate::errno::Errno;
use crate::error::{Failure, IPV6_MIN_MTU, NetError, NoIpv6, Operation};
use crate::link::Link;
use crate::netlink::{Netlink, Object, rtm};
use crate::route::RouteKind;
use crate::sysctl::{self, SysctlError};

pub use all_namespaces::addresses_in_all_namespaces;

/// Between two looks at a link's addresses; one look takes some 50 µs.
const SETTLE_INTERVAL: Duration = Duration::from_millis(10);
/// How long an address's local route is waited for, and how often it is looked for: it comes within microseconds, unless
/// others keep the kernel's RTNL lock busy.
const LOCAL_ROUTE_LIMIT: Duration = Duration::from_secs(1);
const LOCAL_ROUTE_INTERVAL: Duration = Duration::from_micros(200);

/// Why no host can be reached at this address; `None` if one can.
pub fn unusable_host(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("it is unspecified"),
        _ if address.is_loopback() => Some("it is a loopback address"),
        _ if address.is_multicast() => Some("it is a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("it is the broadcast address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("write it as an IPv4 address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("it is link-local, and means another host on each link"),
        _ => None,
    }
}

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
    /// Duplicate address detection found another host that has it.
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

impl Object for AddressMessage {
    const DESCRIBED_BY: &'static [u16] = &[rtm::NEWADDR];
}

impl Netlink {
    /// The IPv4 and IPv6 addresses of the link. The kernel filters them.
    ///
    /// # Errors
    /// [`NetError::NoSuchLink`]; otherwise the kernel's.
    pub fn addresses(&self, index: u32) -> Result<Vec<Address>, NetError> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        let answers: Vec<AddressMessage> = self
            .dump(rtm::GETADDR, &message)
            .map_err(|failure| failure.during(self, Operation::ListAddresses { link: index.into() }))?;
        let of_this_link = answers.iter().filter(|message| message.header.index == index);
        Ok(of_this_link.filter_map(Address::from_message).collect())
    }

    /// The IPv6 addresses of all links, each with its link's index.
    ///
    /// # Errors
    /// [`NetError`], with the kernel's error number.
    pub fn ipv6_addresses(&self) -> Result<Vec<(u32, Address)>, NetError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet6;
        let answers: Vec<AddressMessage> = self
            .dump(rtm::GETADDR, &message)
            .map_err(|failure| failure.during(self, Operation::ListAllAddresses { namespace: None }))?;
        let described =
            answers.iter().filter_map(|message| Some((message.header.index, Address::from_message(message)?)));
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

    /// Waits until packets to the IPv6 ones of `addresses` are received, which the link has without duplicate address
    /// detection; a second at most.
    ///
    /// The kernel adds the local route of an IPv6 address later, in a work of its own (`addrconf_dad_work` in
    /// `net/ipv6/addrconf.c`), even where nothing has to be detected. Until then it forwards or drops what comes for the address. A
    /// link's carrier doesn't matter for this.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait_for_local_routes(&self, index: u32, addresses: &[IpNetwork]) -> Result<(), NetError> {
        let end = Instant::now() + LOCAL_ROUTE_LIMIT;
        for address in addresses.iter().filter(|address| address.is_ipv6()) {
            while Instant::now() < end {
                let route = self.route_by(index, address.ip())?;
                if route.is_some_and(|route| route.kind == RouteKind::Local) {
                    break;
                }
                sleep(LOCAL_ROUTE_INTERVAL);
            }
        }
        Ok(())
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
        let message = address_message(index, address, options);
        match self.tell(rtm::NEWADDR, &message, NLM_F_CREATE | NLM_F_EXCL) {
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

    /// The kernel's error numbers are not specific: `EACCES` for IPv6 that is switched off, and for a small MTU `EINVAL`
    /// or `ENOBUFS`, by its version.
    fn no_ipv6(&self, index: u32, address: IpNetwork, failure: Failure) -> NetError {
        match self.link_by_index(index) {
            Ok(Some(Link { name, mtu, .. })) if mtu < IPV6_MIN_MTU => {
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
    /// [`NetError`], with the kernel's error number.
    pub fn delete_address(&self, index: u32, address: IpNetwork) -> Result<bool, NetError> {
        let message = address_message(index, address, &AddressOptions::default());
        match self.tell(rtm::DELADDR, &message, 0) {
            Ok(_) => Ok(true),
            Err(failure) if failure.is(Errno::ADDRNOTAVAIL) || failure.is(Errno::NODEV) => Ok(false),
            Err(failure) => Err(failure.during(self, Operation::DeleteAddress { link: index.into(), address })),
        }
    }
}

/// Why `link`, or one that is made now where there is none yet, can have no IPv6 address; `None` if it can.
pub fn no_ipv6(link: Option<&Link>) -> Option<NoIpv6> {
    let name = link.map_or("default", |link| &link.name);
    if let Some(mtu) = link.map(|link| link.mtu).filter(|mtu| *mtu < IPV6_MIN_MTU) {
        return Some(NoIpv6::SmallMtu { mtu });
    }
    match sysctl::read(&format!("net/ipv6/conf/{name}/disable_ipv6")) {
        Ok(value) if value != "0" => Some(NoIpv6::disabled(name)),
        Err(SysctlError::NotFound { .. }) => Some(NoIpv6::Kernel),
        _ => None,
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
