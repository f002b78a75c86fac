//! Packet rules: an intent (masquerade, port forward) becomes iptables or nftables rules.

pub mod conntrack;
mod intent;
mod inventory;
pub mod iptables;
mod links;
mod netfilter;
mod nftables;
#[cfg(any(test, fuzzing))]
pub mod properties;

pub use intent::{
    Attachments, Backend, BadChainName, ChainName, Displaced, DnsRedirect, DnsTarget, Forwarding, Ingress,
    IngressPolicy, IsThere, MacGuard, MacGuardHint, MarkChain, Masquerade, PortForward, PortForwards, PublishedOnly,
    Purpose, Snat, UnknownBackend, UnknownPolicy, VxlanPeers,
};
pub use inventory::{Owned, Who, is_key};
pub use netfilter::{FilterError, Netfilter};
pub use nftables::{NftError, Nftables, TableFamily};
