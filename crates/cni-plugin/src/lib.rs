//! The CNI protocol, from a plugin's side: environment and stdin become a request, a result or an error goes to stdout.
//!
//! A plugin is a [`Plugin`]: a configuration and verbs; its `main` calls [`main`]. The crate knows nothing of the kernel's
//! network. What calls have to do with each other and with the processes that they start is here too: [`deadline`], [`child`]
//! and [`Lock`].

pub mod addr;
mod args;
pub mod child;
mod config;
pub mod deadline;
mod delegate;
mod difference;
mod duplicate;
mod env;
mod error;
mod holder;
mod ipam;
pub mod json;
mod lock;
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
pub use holder::Process;
pub use ipam::{Ipam, IpamConfig, PendingAdd};
pub use lock::{Held, Lock, LockError, Turn, holders_of, lock_whole};
pub use names::{ContainerId, IfName, MacAddr, NameError, NetworkName};
pub use owner::{Owner, sha512_hex};
pub use plugin::{Attachment, Detachment, Plugin, REFERENCE_RELEASE, Request};
pub use result::{CniResult, Dns, DnsConfig, Interface, IpConfig, ReadError, Route, UnusableIp, WriteError};
pub use run::{Surroundings, main, run};
pub use undecoded::{ConfigArgs, Undecoded};
pub use undo::Undo;
pub use verb::Verb;
pub use version::{ResultShape, SpecVersion};
