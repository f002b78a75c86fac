//! What the black-box suite is made of: a sandbox, a runner for plugins and chains, and independent views of the kernel.
//!
//! Nothing here knows how the plugins under test are written: they are executables in a directory, and what they did is
//! read with `ip`, `nft`, `iptables-save`, from files and with packets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "an expectation of a test that doesn't hold is a panic, caught and reported by `verdict`"
)]

pub mod capture;
pub mod chain;
pub mod conf;
pub mod conformance;
pub mod dhcp;
pub mod faults;
pub mod go_rules;
pub mod host_local;
pub mod kernel;
pub mod kubernetes;
pub mod legacy;
pub mod netns;
pub mod packets;
pub mod parallel;
pub mod plugins;
pub mod router;
pub mod rules;
pub mod run;
pub mod sandbox;
pub mod sctp;
pub mod snapshot;
pub mod story;
pub mod tools;
pub mod verdict;

pub use chain::{Attachment, Chain};
pub use netns::Netns;
pub use run::{Call, CniError, Outcome};
pub use sandbox::Sandbox;
pub use snapshot::Snapshot;
