//! What is wanted of the packet filter, as data that knows neither the kernel nor a tool; a file an intent.
//!
//! Each intent prints itself in a few words, for plans that are compared with golden files.

mod backend;
mod dns_redirect;
mod forwarding;
mod holder;
mod mac_guard;
mod masquerade;
mod ports;
mod published_only;
mod vxlan_peers;

pub use backend::{Backend, Purpose, UnknownBackend};
pub use dns_redirect::{DnsRedirect, DnsTarget};
pub use forwarding::{Attachments, BadChainName, ChainName, Forwarding, Ingress, IngressPolicy, UnknownPolicy};
pub(crate) use holder::Holder;
pub use holder::{Displaced, IsThere};
pub use mac_guard::{MacGuard, MacGuardHint};
pub use masquerade::Masquerade;
pub use ports::{MarkChain, PortForward, PortForwards, Snat};
pub use published_only::PublishedOnly;
pub use vxlan_peers::VxlanPeers;
