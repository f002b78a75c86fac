//! A node as a source describes it.

use std::net::IpAddr;

use cni_plugin::Family;
use ipnetwork::IpNetwork;

/// A node of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, unique among the nodes.
    pub name: String,
    /// The addresses by which other nodes reach it. Of each IP version the first one counts.
    pub addresses: Vec<IpAddr>,
    /// The parts of the network's subnets that it hands out.
    pub subnets: Vec<IpNetwork>,
}

impl Node {
    /// The address of one IP version by which it is reached.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}

/// A subnet as it is written, without host bits.
///
/// # Errors
/// What is wrong with it.
pub fn subnet(text: &str) -> Result<IpNetwork, String> {
    let subnet: IpNetwork = text.parse().map_err(|_| format!("{text:?} is not a subnet, as 10.42.1.0/24 is one"))?;
    if subnet.ip() != subnet.network() {
        return Err(format!("{text:?} has host bits set: {}/{} is the subnet", subnet.network(), subnet.prefix()));
    }
    Ok(subnet)
}
