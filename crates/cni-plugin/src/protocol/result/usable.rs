//! Addresses and gateways that no container can use.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::IpConfig;
use crate::protocol::addr::same_family;

/// Why an address of a result is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnusableIp {
    /// The container's address.
    #[error("address {address} is {what}, and no interface can have it: configure another one")]
    Address {
        /// The address.
        address: IpNetwork,
        /// What it is.
        what: &'static str,
    },
    /// The gateway.
    #[error("gateway {gateway} of address {address} is {what}, which no host can have: configure another one")]
    Gateway {
        /// The gateway.
        gateway: IpAddr,
        /// The container's address.
        address: IpNetwork,
        /// What it is.
        what: &'static str,
    },
    /// The gateway's family.
    #[error("gateway {gateway} of address {address} is of another address family: configure one of the same")]
    OtherFamily {
        /// The gateway.
        gateway: IpAddr,
        /// The container's address.
        address: IpNetwork,
    },
}

impl IpConfig {
    /// Refuses an address that no interface can have, and a gateway that no host can have or that is of another family.
    pub fn refuse_unusable(&self) -> Result<(), UnusableIp> {
        let address = self.address;
        if let Some(what) = unusable(address.ip()) {
            return Err(UnusableIp::Address { address, what });
        }
        let Some(gateway) = self.gateway else { return Ok(()) };
        if !same_family(address.ip(), gateway) {
            return Err(UnusableIp::OtherFamily { gateway, address });
        }
        unusable(gateway).map_or(Ok(()), |what| Err(UnusableIp::Gateway { gateway, address, what }))
    }
}

/// The kinds of addresses (RFC 6890) that the kernel does not send to a host on a link, or not from.
fn unusable(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) if ip.octets().first() == Some(&0) => Some("of \"this network\" (0.0.0.0/8)"),
        IpAddr::V4(ip) if ip.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(ip) if ip.is_unspecified() => Some("the unspecified address"),
        ip if ip.is_loopback() => Some("a loopback address"),
        ip if ip.is_multicast() => Some("a multicast address"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str, gateway: &str) -> String {
        let ip = IpConfig { interface: None, address: address.parse().unwrap(), gateway: gateway.parse().ok() };
        ip.refuse_unusable().err().map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn what_no_host_can_have_is_refused_by_its_name() {
        for (address, what) in [
            ("127.0.0.5/8", "loopback"),
            ("0.0.0.0/0", "this network"),
            ("224.0.0.5/24", "multicast"),
            ("255.255.255.255/32", "broadcast"),
            ("::1/128", "loopback"),
            ("::/64", "unspecified"),
            ("ff02::1/64", "multicast"),
        ] {
            let (own, gateway) = (refused(address, ""), refused("10.0.0.5/24", address.split('/').next().unwrap()));
            assert!(own.contains(address) && own.contains(what), "{own}");
            assert!(gateway.contains("10.0.0.5/24") || gateway.contains("gateway"), "{gateway}");
        }
        assert!(refused("10.0.0.5/24", "fd00::1").contains("another address family"));
    }

    #[test]
    fn all_others_pass() {
        for (address, gateway) in [
            ("10.0.0.5/24", "10.0.0.1"),
            ("169.254.0.5/16", ""),
            ("100.64.0.5/10", "10.0.0.1"),
            ("fe80::5/64", "fe80::1"),
            ("fd00::5/128", "fe80::1"),
            ("240.0.0.5/4", ""),
        ] {
            assert_eq!(refused(address, gateway), "");
        }
    }
}
