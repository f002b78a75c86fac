//! Masquerading as an intent: which address, of which subnet, for which owner.

use std::fmt;
use std::net::IpAddr;

use cni_plugin::{IpConfig, Owner};
use ipnetwork::IpNetwork;

/// Packets from `address` to a destination outside `subnet` leave with the node's address, or with a certain one.
/// Multicast (224.0.0.0/4, ff00::/8) is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masquerade {
    /// Whose rules they are.
    pub owner: Owner,
    /// The container's address.
    pub address: IpAddr,
    /// The container's subnet, with or without host bits.
    pub subnet: IpNetwork,
    /// The source that the packets get; `None` is the first address of the link that they leave by.
    pub to: Option<IpAddr>,
}

impl Masquerade {
    /// One for every address of a result: to destinations outside of the address's own subnet.
    pub fn of_each(owner: &Owner, ips: &[IpConfig]) -> Vec<Self> {
        let of = |ip: &IpConfig| Self { owner: owner.clone(), address: ip.address.ip(), subnet: ip.address, to: None };
        ips.iter().map(of).collect()
    }
}

/// `masquerade 10.1.0.2 to destinations outside 10.1.0.0/16`.
impl fmt::Display for Masquerade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (network, prefix) = (self.subnet.network(), self.subnet.prefix());
        write!(f, "masquerade {} to destinations outside {network}/{prefix}", self.address)?;
        self.to.map_or(Ok(()), |to| write!(f, " as {to}"))
    }
}
