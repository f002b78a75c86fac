//! Packet rules: an intent (masquerade, port forward) becomes iptables or nftables rules.

mod intent;
pub mod iptables;
mod nftables;

pub use intent::{Backend, MarkChain, Masquerade, PortForward, PortForwards, Protocol, Snat};
pub use nftables::{NftError, Nftables, TableFamily};
