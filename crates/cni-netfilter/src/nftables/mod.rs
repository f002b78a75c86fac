//! The nftables backend: intents become elements of maps in tables of our own, over netlink, without the `nft` tool.
//!
//! What belongs to a container is an element, with its owner in its comment; what is shared (tables, maps, chains, rules)
//! is made when it is first needed. `nft list ruleset` shows all of it, and `nft -f` can load that again.

mod apply;
mod check;
mod element;
mod error;
mod expr;
mod firewall;
mod firewall_foreign;
mod firewall_frame;
mod firewall_iptables;
mod frame;
mod legacy;
mod localnet;
mod masquerade;
mod portforward;
mod probe;
mod raw;
mod transport;

use std::collections::HashSet;

use cni_plugin::{NetworkName, Owner};

pub use error::NftError;
pub(crate) use firewall_frame::MARK as ACCEPT_MARK;
pub(crate) use firewall_iptables::COMMENT as MARK_COMMENT;
pub use probe::TableFamily;
pub(crate) use transport::Socket;

/// A session with nf_tables of one network namespace.
///
/// Closing it (dropping it) after something was removed waits until the kernel has freed that, 5–15 ms; so do other work
/// first.
#[derive(Debug)]
pub struct Nftables {
    socket: Socket,
}

impl Nftables {
    /// Opens a session in the network namespace of the calling thread. Nothing is asked or changed yet.
    ///
    /// # Errors
    /// [`NftError::Open`] if the kernel has no netfilter netlink.
    pub fn open() -> Result<Self, NftError> {
        Ok(Self { socket: Socket::open()? })
    }
}

/// A test for comments of owners of `network` that are not `valid`.
fn valid_keys(network: &NetworkName, valid: &[Owner]) -> impl Fn(&str) -> bool {
    let network = Owner::network_key(network);
    let valid: HashSet<String> = valid.iter().map(Owner::key).collect();
    move |comment| comment.starts_with(&network) && comment.split(',').next().is_some_and(|key| !valid.contains(key))
}
