//! Packet rules: an intent (masquerade, port forward) becomes iptables or nftables rules.

mod choice;
mod configured;
pub mod conntrack;
mod filter;
mod forward_filter;
mod forwarding;
mod intent;
pub mod iptables;
mod links;
mod nftables;
mod port_filter;
#[cfg(any(test, fuzzing))]
pub mod properties;

pub use configured::UnknownBackend;
pub use conntrack::Flush;
pub use filter::{FilterError, Netfilter, Removal};
pub use forwarding::{Attachments, BadChainName, ChainName, Forwarding, Ingress, IngressPolicy, UnknownPolicy};
pub use intent::{
    Backend, Displaced, Evicted, FormerHolders, MacGuard, MacGuardHint, MarkChain, Masquerade, PortForward,
    PortForwards, Protocol, Purpose, Snat,
};
pub use links::IsThere;
pub use nftables::{GoHeld, GoPorts, NftError, Nftables, TableFamily};
