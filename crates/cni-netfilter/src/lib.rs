//! Packet rules: an intent (masquerade, port forward) becomes iptables or nftables rules.

pub mod conntrack;
mod intent;
mod nftables;

pub use intent::{Backend, MarkChain, Masquerade, PortForward, PortForwards, Protocol, Snat};
pub use nftables::{NftError, Nftables, TableFamily};
