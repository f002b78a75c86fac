//! Addresses of both families on one line of numbers, so that they can be counted and ordered.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use cni_plugin::{CniResult, IfName};

/// An address as a number; IPv4 ones are at their IPv4-mapped place (`::ffff:0:0/96`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Address(pub(crate) u128);

impl Address {
    /// The address `n` further on; stops at the last one of all.
    pub(crate) fn after(self, n: u128) -> Self {
        Self(self.0.saturating_add(n))
    }

    /// The address `n` before; stops at the first one of all.
    pub(crate) fn before(self, n: u128) -> Self {
        Self(self.0.saturating_sub(n))
    }

    /// The addresses of the attachment's interface as the previous result reports them.
    pub(crate) fn reported(prev_result: Option<&CniResult>, ifname: &IfName) -> Vec<Self> {
        let ips = prev_result.into_iter().flat_map(|result| result.ips_of(ifname));
        ips.map(|ip| ip.address.ip().into()).collect()
    }

    /// How many steps it is to `other`, which isn't before this.
    pub(crate) fn distance(self, other: Self) -> u128 {
        other.0.saturating_sub(self.0)
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        Self(match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
            IpAddr::V6(ip) => ip.to_bits(),
        })
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        Self::V6(Ipv6Addr::from_bits(address.0)).to_canonical()
    }
}

/// As Go writes it, and so as the reservation's file is named.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}
