//! The CNI protocol, from a plugin's side: environment and stdin become a request, a result or an error goes to stdout.
#![warn(missing_docs)]

mod difference;
mod names;
mod owner;

pub use difference::Difference;
pub use names::{ContainerId, IfName, MacAddr, NameError, NetworkName};
pub use owner::{Owner, sha512_hex};
