//! What the firewall plugin wants of the packet filter, as data: the same for either backend.

use std::fmt;
use std::net::IpAddr;

use cni_plugin::{IfName, Owner};

/// What may be forwarded from and to one attachment's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarding {
    /// Whose rules they are.
    pub owner: Owner,
    /// The attachment's addresses, of either family. What they send is accepted, the replies to it, and what reaches a
    /// published port of theirs.
    pub addresses: Vec<IpAddr>,
    /// The chain in which the administrator can overrule us (iptables only).
    pub admin_chain: String,
    /// Who may not reach the attachment in spite of it.
    pub ingress: Option<Ingress>,
}

/// The policy of one bridge. It is shared by all attachments behind it, and the latest addition decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingress {
    /// The bridge.
    pub bridge: IfName,
    /// What is dropped.
    pub policy: IngressPolicy,
}

/// What a bridge with a policy keeps out. What comes from elsewhere, an uplink or a bridge without a policy, passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IngressPolicy {
    /// Packets from another bridge that has a policy too.
    SameBridge,
    /// Those, and packets from one port of the bridge to another, as far as the kernel hands them to the packet filter
    /// (`br_netfilter`).
    Isolated,
}

impl fmt::Display for IngressPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SameBridge => "same-bridge",
            Self::Isolated => "isolated",
        })
    }
}

impl Forwarding {
    /// True if there is nothing to be done.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }
}
