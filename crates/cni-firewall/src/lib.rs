//! What accepts containers' traffic on a node: firewalld where it runs, else the kernel's packet filter.

mod firewall;
mod firewalld;

pub use firewall::{Firewall, FirewallBackend, FirewallError};
pub use firewalld::FirewalldError;
