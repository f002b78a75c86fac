//! Packet rules: an intent (masquerade, port forward) becomes iptables or nftables rules.

mod filter;
mod forward_filter;
mod forwarding;
mod intent;
pub mod iptables;
mod nftables;

pub use filter::{FilterError, Netfilter};
pub use forwarding::{Forwarding, Ingress, IngressPolicy};
pub use intent::{Backend, MarkChain, Masquerade, PortForward, PortForwards, Protocol, Snat};
pub use nftables::{NftError, Nftables, TableFamily};
