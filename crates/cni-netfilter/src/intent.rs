//! What a plugin wants of the packet filter, as data: the same for either backend.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use cni_plugin::{IfName, MacAddr, Owner};
use ipnetwork::IpNetwork;

/// Who carries the rules out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The `iptables` and `ip6tables` tools, one restore transaction per family.
    Iptables,
    /// nf_tables over netlink, in tables of our own; no process is started.
    Nftables,
}

/// What rules are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Masquerading what containers send.
    Masquerade,
    /// Published ports.
    Ports,
    /// What is let through.
    Forwarding,
}

impl Purpose {
    /// The table of iptables that the rules are in.
    pub(crate) fn table(self) -> &'static str {
        match self {
            Self::Masquerade | Self::Ports => "nat",
            Self::Forwarding => "filter",
        }
    }
}

/// As configurations name it.
impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        })
    }
}

/// What an attachment sends from `address` to a destination outside `subnet` leaves with the node's address.
/// Multicast (224.0.0.0/4, ff00::/8) is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masquerade {
    /// Whose rules they are.
    pub owner: Owner,
    /// The container's address.
    pub address: IpAddr,
    /// The container's subnet, with or without host bits.
    pub subnet: IpNetwork,
}

/// Who had addresses that were to be masqueraded for somebody else, in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FormerHolders {
    /// They are no longer masqueraded for these.
    pub gone: Vec<String>,
    /// They still are for these, and not for the other one.
    pub alive: Vec<String>,
}

/// What arrives by a bridge's port with another source address than the container's is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacGuard {
    /// Whose check it is.
    pub owner: Owner,
    /// The port: the host's end of the container's veth pair.
    pub port: IfName,
    /// The container's hardware address.
    pub mac: MacAddr,
}

/// What is known of a [`MacGuard`] that is to go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MacGuardHint {
    /// The port, if it is known.
    pub port: Option<IfName>,
    /// The address, if it is known.
    pub mac: Option<MacAddr>,
}

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP, protocol number 6.
    Tcp,
    /// UDP, protocol number 17.
    Udp,
    /// SCTP, protocol number 132.
    Sctp,
}

impl Protocol {
    /// As IP headers have it.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// One published port: what arrives at the host's port goes to the container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortForward {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The host address it is published on; `None` means every local address of the family.
    pub host_ip: Option<IpAddr>,
    /// The port on the host.
    pub host_port: u16,
    /// The container's address and port.
    pub to: SocketAddr,
}

/// Whose connections to a published port get the node's address as their source, so that the replies come back
/// through the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snat {
    /// Nobody's.
    Off,
    /// Those from the container's own subnet (hairpin and its neighbours) and, in IPv4, from 127.0.0.1.
    Local,
    /// Everybody's (`masqAll`).
    All,
}

/// How the iptables backend marks the packets that [`Snat`] selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MarkChain {
    /// With a bit of the packet mark (0–31), set by our own `CNI-HOSTPORT-SETMARK`.
    Bit(u8),
    /// By jumping to somebody else's chain, which also does the masquerading.
    External(String),
}

/// What one attachment publishes in one address family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForwards {
    /// Whose rules they are.
    pub owner: Owner,
    /// The container's address with its prefix; tells the family.
    pub container: IpNetwork,
    /// The ports, all of the container's family.
    pub ports: Vec<PortForward>,
    /// Source address translation.
    pub snat: Snat,
    /// iptables only.
    pub mark: MarkChain,
    /// Further matches that a packet must satisfy, in the backend's own language.
    pub conditions: Vec<String>,
    /// Local destinations, of the container's family, that a port without `host_ip` is not published on: addresses of the
    /// node that exist to hold services.
    pub exclude: Vec<IpNetwork>,
    /// The index of the node's end of the container's link, if it is known. When there is no such link any more, the
    /// container is gone, and its ports may be given to another.
    pub link: Option<u32>,
    /// What arrives from or for 127.0.0.0/8 by another interface than `lo` is dropped: for ports that are published there, and
    /// where `route_localnet` is on. nftables only; for iptables there is [`crate::Netfilter::guard_localnet`].
    pub guard_localnet: bool,
}

/// Who was evicted from a port: the container is gone, and its ports were still published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evicted {
    /// The owner in words.
    pub holder: String,
    /// What was published for it.
    pub ports: Vec<PortForward>,
}

/// What publishing ports took away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Displaced {
    /// Who was evicted.
    pub evicted: Vec<Evicted>,
    /// What the same owners had published before and no longer want.
    pub withdrawn: Vec<PortForward>,
}
