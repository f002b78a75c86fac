//! Packet rules: an intent (masquerade, port forward) becomes iptables or nftables rules.

pub mod conntrack;
mod filter;
mod intent;
pub mod iptables;
mod links;
mod nftables;

pub use conntrack::Flush;
pub use filter::{FilterError, Netfilter};
pub use intent::{Backend, MarkChain, Masquerade, PortForward, PortForwards, Protocol, Snat};
pub use nftables::{NftError, Nftables, TableFamily};
