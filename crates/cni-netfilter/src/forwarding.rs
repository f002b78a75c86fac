//! What the firewall plugin wants of the packet filter, as data: the same for either backend.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use cni_plugin::{IfName, Owner};
use ipnetwork::IpNetwork;

/// What may be forwarded from and to one attachment's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarding {
    /// Whose rules they are.
    pub owner: Owner,
    /// The attachment's addresses, of either family. What they send is accepted, the replies to it, and what reaches a
    /// published port of theirs.
    pub addresses: Vec<IpAddr>,
    /// The chain in which the administrator can overrule us (iptables only).
    pub admin_chain: ChainName,
    /// Who may not reach the attachment in spite of it.
    pub ingress: Option<Ingress>,
}

/// Which attachments are there, as the node's links tell. It is asked only where the rules alone leave two explanations.
pub trait Attachments: Sync {
    /// True if a link carries the owner with this key ([`Owner::key`]), or if that cannot be told.
    fn has(&self, owner_key: &str) -> bool;

    /// True if the node's end of the attachment's own link is there, whichever plugin made it.
    fn has_own(&self) -> bool;
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

impl IngressPolicy {
    /// The value of `ingressPolicy`: `open`, and empty, is none.
    pub fn configured(text: &str) -> Result<Option<Self>, UnknownPolicy> {
        match text {
            "" | "open" => Ok(None),
            "same-bridge" => Ok(Some(Self::SameBridge)),
            "isolated" => Ok(Some(Self::Isolated)),
            other => Err(UnknownPolicy(other.to_owned())),
        }
    }
}

/// A policy that doesn't exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown ingress policy: {0:?}: ingressPolicy is \"open\", \"same-bridge\" or \"isolated\"")]
pub struct UnknownPolicy(pub String);

/// The name of an iptables chain of somebody else's, as the tools take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainName(String);

/// A text that iptables wouldn't take for a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be used as a chain name: 1 to 28 printable characters without blanks are allowed, and neither a target of \
     iptables nor a chain that leads to one"
)]
pub struct BadChainName(pub String);

impl ChainName {
    /// The administrator's chain, where none is configured.
    pub const ADMIN: &'static str = "CNI-ADMIN";
    /// The longest that iptables takes (`XT_EXTENSION_MAXNAMELEN` less the final zero).
    const MAX: usize = 28;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Names that no chain of the administrator's can have: the kernel's own, targets of iptables, and the chains that lead to it.
const TAKEN: [&str; 50] = [
    "INPUT",
    "FORWARD",
    "OUTPUT",
    "PREROUTING",
    "POSTROUTING",
    "CNI-FORWARD",
    "CNI-FORWARD-PUBLISHED",
    "CNI-ISOLATION-STAGE-1",
    "CNI-ISOLATION-STAGE-2",
    "ACCEPT",
    "DROP",
    "QUEUE",
    "RETURN",
    "REJECT",
    "LOG",
    "NFLOG",
    "NFQUEUE",
    "ULOG",
    "MARK",
    "CONNMARK",
    "SECMARK",
    "CONNSECMARK",
    "DNAT",
    "SNAT",
    "MASQUERADE",
    "REDIRECT",
    "NETMAP",
    "DNPT",
    "SNPT",
    "TPROXY",
    "TRACE",
    "CT",
    "NOTRACK",
    "TCPMSS",
    "TCPOPTSTRIP",
    "TOS",
    "DSCP",
    "TTL",
    "HL",
    "ECN",
    "SET",
    "SYNPROXY",
    "CLASSIFY",
    "CHECKSUM",
    "AUDIT",
    "LED",
    "RATEEST",
    "IDLETIMER",
    "TEE",
    "HMARK",
];

/// A `-` or `!` would be taken for an option, a quote for the end of the word.
impl FromStr for ChainName {
    type Err = BadChainName;

    fn from_str(name: &str) -> Result<Self, BadChainName> {
        let fits = (1..=Self::MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_graphic() && !b"\"'\\".contains(&b))
            && !name.starts_with(['-', '!'])
            && !TAKEN.contains(&name);
        if fits { Ok(Self(name.to_owned())) } else { Err(BadChainName(name.to_owned())) }
    }
}

impl Forwarding {
    /// Each address as a network of its own.
    pub fn networks(&self) -> Vec<IpNetwork> {
        self.addresses.iter().copied().map(IpNetwork::from).collect()
    }

    /// True if there is nothing to be done.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_have_exactly_these_names() {
        assert_eq!(IngressPolicy::configured(""), Ok(None));
        assert_eq!(IngressPolicy::configured("open"), Ok(None));
        for policy in [IngressPolicy::SameBridge, IngressPolicy::Isolated] {
            assert_eq!(IngressPolicy::configured(&policy.to_string()), Ok(Some(policy)));
        }
        assert_eq!(IngressPolicy::configured("Isolated"), Err(UnknownPolicy("Isolated".to_owned())));
    }

    #[test]
    fn a_chain_name_is_one_word() {
        let is_one = |name: &str| name.parse::<ChainName>().is_ok();
        assert!(is_one("CNI-ADMIN") && is_one(&"x".repeat(28)));
        for bad in
            ["DROP", "FORWARD", "CNI-FORWARD", "LOG", "", "a b", "-F", "!x", "a\"b", "a\nb", "é", &"x".repeat(29)]
        {
            assert!(!is_one(bad), "{bad:?}");
        }
    }
}
