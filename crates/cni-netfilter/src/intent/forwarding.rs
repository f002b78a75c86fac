//! Accepting what is forwarded from and to a container, and the policy of its bridge.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use cni_plugin::{IfName, Owner};
use ipnetwork::IpNetwork;

use super::PublishedOnly;

/// What may be forwarded from and to one attachment's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarding {
    /// Whose rules they are.
    pub owner: Owner,
    /// The attachment's addresses, of either family. Accepted are packets from them, the replies to those, and connections to
    /// ports that are published for them.
    pub addresses: Vec<IpAddr>,
    /// The chain in which the administrator can overrule the accepts (iptables only).
    pub admin_chain: ChainName,
    /// What may not reach the attachment in spite of that.
    pub ingress: Option<Ingress>,
    /// The link that the container is behind, if from elsewhere only its published ports are reachable.
    pub published_only: Option<IfName>,
}

/// Which attachments are there, by the node's links. CHECK asks only where the rules alone leave two explanations.
pub trait Attachments: Sync {
    /// True if a link carries the owner with this key ([`Owner::key`]), or if that cannot be determined.
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

/// What a bridge with a policy drops. Packets from an uplink or a bridge without a policy pass.
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

/// The name of an iptables chain that another program makes, as the tools take it.
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

/// Names that no chain of the administrator's can have: the kernel's own chains, those that lead to it, and the targets of
/// iptables.
const TAKEN: &str = "INPUT FORWARD OUTPUT PREROUTING POSTROUTING
    CNI-FORWARD CNI-FORWARD-PUBLISHED CNI-ISOLATION-STAGE-1 CNI-ISOLATION-STAGE-2
    ACCEPT DROP QUEUE RETURN REJECT LOG NFLOG NFQUEUE ULOG MARK CONNMARK SECMARK CONNSECMARK DNAT SNAT MASQUERADE REDIRECT
    NETMAP DNPT SNPT TPROXY TRACE CT NOTRACK TCPMSS TCPOPTSTRIP TOS DSCP TTL HL ECN SET SYNPROXY CLASSIFY CHECKSUM AUDIT LED
    RATEEST IDLETIMER TEE HMARK";

/// A `-` or `!` would be taken for an option, a quote for the end of the word.
impl FromStr for ChainName {
    type Err = BadChainName;

    fn from_str(name: &str) -> Result<Self, BadChainName> {
        let fits = (1..=Self::MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_graphic() && !b"\"'\\".contains(&b))
            && !name.starts_with(['-', '!'])
            && TAKEN.split_whitespace().all(|taken| taken != name);
        if fits { Ok(Self(name.to_owned())) } else { Err(BadChainName(name.to_owned())) }
    }
}

impl Forwarding {
    /// Each address as a network of its own.
    pub fn networks(&self) -> Vec<IpNetwork> {
        self.addresses.iter().copied().map(IpNetwork::from).collect()
    }

    /// True if there is nothing to be accepted.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// The closed door of these addresses, if they have one.
    pub fn door(&self) -> Option<PublishedOnly> {
        let link = self.published_only.clone()?;
        Some(PublishedOnly { owner: self.owner.clone(), addresses: self.addresses.clone(), link })
    }

    /// The bridge, if it has a policy.
    pub(crate) fn closed_bridges(&self) -> Vec<IfName> {
        self.ingress.iter().map(|ingress| ingress.bridge.clone()).collect()
    }
}

/// A line for each address, and one for the policy.
impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for address in &self.addresses {
            writeln!(f, "accept packets from {address}, replies to it, and connections to its published ports")?;
        }
        writeln!(f, "\tunless the iptables chain {} decides otherwise", self.admin_chain.as_str())?;
        if let Some(Ingress { bridge, policy }) = &self.ingress {
            writeln!(f, "drop packets to {bridge} from other bridges with an ingress policy ({policy})")?;
            if *policy == IngressPolicy::Isolated {
                writeln!(f, "drop packets from one port of {bridge} to another")?;
            }
        }
        self.door().map_or(Ok(()), |door| door.fmt(f))
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
        for bad in [
            "DROP",
            "FORWARD",
            "CNI-FORWARD",
            "LOG",
            "HMARK",
            "",
            "a b",
            "-F",
            "!x",
            "a\"b",
            "a\nb",
            "é",
            &"x".repeat(29),
        ] {
            assert!(!is_one(bad), "{bad:?}");
        }
    }

    #[test]
    fn the_policy_is_printed_with_its_bridge() {
        let with = |policy| Forwarding {
            owner: Owner {
                network: "net".parse().unwrap(),
                container_id: "c1".parse().unwrap(),
                ifname: "eth0".parse().unwrap(),
            },
            addresses: vec!["10.1.0.2".parse().unwrap()],
            admin_chain: ChainName::ADMIN.parse().unwrap(),
            ingress: Some(Ingress { bridge: "cni0".parse().unwrap(), policy }),
            published_only: None,
        };
        let printed = with(IngressPolicy::SameBridge).to_string();
        assert!(
            printed.contains("10.1.0.2") && printed.contains("CNI-ADMIN") && printed.contains("(same-bridge)"),
            "{printed}"
        );
        assert!(!printed.contains("one port of cni0"), "{printed}");
        assert!(with(IngressPolicy::Isolated).to_string().contains("one port of cni0"));
    }
}
