//! What plugin and daemon say to each other: one line of JSON each way over a Unix socket. Both are the same executable; the Go
//! plugins' daemon speaks another language (gob).

use std::path::PathBuf;

use cni_plugin::{ContainerId, Dns, IfName, IpConfig, NetworkName, Owner, Route};
use serde::{Deserialize, Serialize};

/// No call and no answer is longer, in bytes: 100 000 valid owners of a GC fit.
pub const LONGEST: u64 = 32 << 20;

/// What the plugin asks for.
#[derive(Debug, Serialize, Deserialize)]
pub enum Call {
    /// A lease for this owner, within this many seconds. The one that it has, if its link is the same.
    Add {
        /// For whom.
        wanted: Wanted,
        /// How long the server is asked.
        seconds: u64,
    },
    /// What the owner has now.
    Check(OwnerName),
    /// The end of the owner's lease.
    Del(OwnerName),
    /// The end of all leases of the network but for these owners'.
    Gc {
        /// Which network.
        network: NetworkName,
        /// Who keeps what it has.
        valid: Vec<OwnerName>,
    },
}

/// What the daemon says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The lease's addresses.
    Granted(Granted),
    /// It is done.
    Done,
    /// It can't be done.
    Failed(String),
}

/// A lease that is wanted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Wanted {
    /// For whom.
    pub owner: OwnerName,
    /// Where the link is.
    pub netns: PathBuf,
    /// The options for the server.
    pub options: Options,
}

/// What is said to the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// DHCPv4 options, by number.
    pub provide: Vec<(u8, Vec<u8>)>,
    /// DHCPv4 options that are asked for.
    pub request: Vec<u8>,
    /// The metric of the routes.
    pub priority: u32,
    /// An IPv4 address is wanted.
    pub v4: bool,
    /// An IPv6 address is wanted.
    pub v6: bool,
}

/// What a lease gives to the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// The leased addresses, with their gateways.
    pub ips: Vec<IpConfig>,
    /// Routes.
    pub routes: Vec<Route>,
    /// Name resolution, as far as it was asked for.
    pub dns: Dns,
}

/// An [`Owner`] as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerName {
    network: NetworkName,
    container_id: ContainerId,
    ifname: IfName,
}

impl From<&Owner> for OwnerName {
    fn from(owner: &Owner) -> Self {
        let Owner { network, container_id, ifname } = owner.clone();
        Self { network, container_id, ifname }
    }
}

impl OwnerName {
    /// The owner itself.
    pub fn owner(&self) -> Owner {
        let Self { network, container_id, ifname } = self.clone();
        Owner { network, container_id, ifname }
    }
}
