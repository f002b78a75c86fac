//! The plugin's side of the CNI protocol: reads a request from environment and stdin, and writes a result or an error to stdout.
//!
//! A plugin is a [`Plugin`]: a configuration and verbs; its `main` calls [`main`]. The crate knows nothing of the kernel's
//! network. Its rooms, each of which uses only those above it:
//!
//! * `protocol`: what the specification defines, as types; no side effects.
//! * `process`: what one call shares with other processes: time limits, children, companions, locks, rollback.
//! * [`state`]: files on the node that other programs may have touched.
//! * `delegation`: calling other plugins, IPAM above all.
//! * `plugin`: what a plugin's author writes against.
//! * `call`: one call from top to bottom.

mod call;
mod delegation;
mod plugin;
mod process;
mod protocol;
pub mod state;

pub use call::{Surroundings, main, run};
pub use delegation::Delegates;
pub use delegation::ipam::{Ipam, IpamConfig, PendingAdd};
pub use plugin::{Attachment, Detachment, Plugin, REFERENCE_RELEASE, Request};
pub use process::lock::{Held, Lock, LockError, Turn, holders_of, lock_whole};
pub use process::overlap::overlap;
pub use process::undo::Undo;
pub use process::{child, companion, deadline};
pub use protocol::addr::Family;
pub use protocol::args::{ArgsError, CniArgs};
pub use protocol::difference::{Difference, verdict};
pub use protocol::env::Vars;
pub use protocol::error::{CniError, code};
pub use protocol::keys::{ConfigArgs, DirectoryKey, DnsConfig};
pub use protocol::names::{ContainerId, IfName, MacAddr, NameError, NetworkName};
pub use protocol::owner::{Owner, sha512_hex};
pub use protocol::result::{CniResult, Dns, Interface, IpConfig, ReadError, Route, UnusableIp, WriteError};
pub use protocol::transport::{Protocol, UnknownProtocol};
pub use protocol::version::SpecVersion;
pub use protocol::{addr, json};

/// In place of musl's own allocator, which gives each page back as soon as it can: a plugin would ask for the same page dozens of
/// times.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;
