//! What the resolver must know of an attachment: the content of its file.

use std::net::{IpAddr, SocketAddr};

use cni_plugin::{ContainerId, IfName, NetworkName, Owner};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::name::Name;

/// An attachment's names, and how they are found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The owner: its network,
    pub network: NetworkName,
    /// its container,
    pub container_id: ContainerId,
    /// and its interface.
    pub ifname: IfName,
    /// The node's interface by which its questions arrive.
    pub interface: IfName,
    /// The container's addresses, with the prefix of their subnet.
    pub addresses: Vec<IpNetwork>,
    /// The addresses of the node that it asks, one a family at most.
    pub servers: Vec<IpAddr>,
    /// Its names, without a domain.
    pub names: Vec<Name>,
    /// The domain in which its network's names are also found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<Name>,
    /// The servers for other names; none are those of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Vec<SocketAddr>>,
    /// The network has a way out: a default route.
    pub has_way_out: bool,
    /// Whatever server it asks, the resolver answers.
    pub intercept: bool,
}

impl Record {
    /// The owner.
    pub fn owner(&self) -> Owner {
        let Self { network, container_id, ifname, .. } = self.clone();
        Owner { network, container_id, ifname }
    }
}
