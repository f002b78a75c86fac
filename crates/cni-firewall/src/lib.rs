//! Who lets containers' traffic through on a node: firewalld where it runs, else the kernel's packet filter.

mod firewall;
mod firewalld;

pub use firewall::{Firewall, FirewallError, Who};
pub use firewalld::FirewalldError;
