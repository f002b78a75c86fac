//! The CNI protocol, from a plugin's side: environment and stdin become a request, a result or an error goes to stdout.
//!
//! A plugin is a [`Plugin`]: a configuration and verbs; its `main` calls [`main`]. The crate knows nothing of the kernel.

pub mod addr;
mod args;
mod config;
mod delegate;
mod difference;
mod duplicate;
mod env;
mod error;
mod ipam;
pub mod json;
mod names;
mod owner;
mod plugin;
mod result;
mod run;
pub mod state;
mod stdout;
mod undecoded;
mod undo;
mod verb;
mod version;

pub use args::{ArgsError, CniArgs};
pub use delegate::{Delegates, Running};
pub use difference::{Difference, verdict};
pub use duplicate::duplicate_key;
pub use env::Vars;
pub use error::{CniError, code};
pub use ipam::{Ipam, IpamConfig, PendingAdd};
pub use names::{ContainerId, IfName, MacAddr, NameError, NetworkName};
pub use owner::{Owner, sha512_hex};
pub use plugin::{Attachment, Detachment, Plugin, REFERENCE_RELEASE, Request};
pub use result::{CniResult, Dns, DnsConfig, Interface, IpConfig, ReadError, Route, UnusableIp, WriteError};
pub use run::{Surroundings, main, run};
pub use undecoded::{ConfigArgs, Undecoded};
pub use undo::Undo;
pub use verb::Verb;
pub use version::{ResultShape, SpecVersion};
