//! Packet rules: an intent (masquerade, port forward) becomes iptables or nftables rules.

mod intent;
pub mod iptables;

pub use intent::{Backend, MarkChain, Masquerade, PortForward, PortForwards, Protocol, Snat};
