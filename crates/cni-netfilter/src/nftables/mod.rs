//! The nftables backend: intents become elements of maps in tables of our own, over netlink, without the `nft` tool.
//!
//! What belongs to a container is an element, with its owner in its comment; what is shared (tables, maps, chains, rules)
//! is made when it is first needed. `nft list ruleset` shows all of it, and `nft -f` can load that again.
//!
//! | table | maps and sets | what it does |
//! |---|---|---|
//! | `inet cni_masquerade` | `hosts4`, `hosts6`: container's address → `goto subnet-…` | masquerades what leaves the subnet |
//! | `ip cni_ports`, `ip6 cni_ports` | `ports`: protocol, host port → container; `address_ports`: the same with a host address | forwards what is for this node |
//! | | `conditions`, `address_conditions`: the same keys → `goto when-…` | asks the conditions of whoever has some |
//! | | `claims`: the same keys with a rank → container | the ports of a container's further networks, which take over |
//! | | `sources`: container, protocol, its port, host port → `goto snat-…` | masquerades forwarded connections |
//! | each of these | `owners`: owner → number of elements, link | tells in constant time what an owner has |
//! | `ip cni_localnet` | | drops what arrives for or from 127.0.0.0/8 by another interface than `lo` |
//!
//! A packet costs the same number of lookups however many elements there are. So does a deletion; an addition to a map of
//! verdicts lets the kernel validate all of its chains (`nft_table_validate`), 50 ns for each element that is there.

mod answer;
mod apply;
mod batch;
mod chains;
mod check;
mod claims;
mod comment;
mod conditions;
mod element;
mod error;
mod expr;
mod firewall;
mod firewall_fate;
mod firewall_foreign;
mod firewall_frame;
mod firewall_iptables;
mod frame;
mod index;
mod legacy;
mod legacy_macspoof;
mod legacy_ports;
mod localnet;
mod macspoof;
mod masquerade;
mod outstanding;
mod plan;
mod portforward;
mod portframe;
mod portholders;
mod portkeys;
mod print;
mod probe;
#[cfg(any(test, fuzzing))]
mod properties;
mod raw;
mod remove;
mod set;
mod transport;
mod xtables;

use std::collections::HashSet;

use cni_plugin::{NetworkName, Owner};

use crate::links::{IsThere, index_exists};

pub use error::NftError;
pub(crate) use firewall_frame::MARK as ACCEPT_MARK;
pub(crate) use firewall_iptables::COMMENT as MARK_COMMENT;
pub use legacy_ports::{GoHeld, GoPorts};
pub(crate) use portframe::number as protocol_number;
pub use probe::TableFamily;
#[cfg(any(test, fuzzing))]
pub use properties::{answers_hold, conditions_hold};
pub(crate) use transport::Socket;
#[cfg(test)]
pub(crate) use xtables::XtRule;
pub(crate) use xtables::{OPAQUE, XtRemoval, XtTable};

/// A session with nf_tables of one network namespace.
///
/// Closing it (dropping it) after something was removed waits until the kernel has freed that, 5–15 ms; so do other work
/// first.
#[derive(Debug)]
pub struct Nftables {
    socket: Socket,
    holder_is_there: IsThere,
}

impl Nftables {
    /// Opens a session in the network namespace of the calling thread. Nothing is asked or changed yet.
    ///
    /// # Errors
    /// [`NftError::Open`] if the kernel has no netfilter netlink.
    pub fn open() -> Result<Self, NftError> {
        Ok(Self { socket: Socket::open()?, holder_is_there: index_exists })
    }

    /// The same, asking this whether a holder is there.
    pub(crate) fn asking(self, holder_is_there: IsThere) -> Self {
        Self { holder_is_there, ..self }
    }
}

/// A test for comments of owners of `network` that are not `valid`.
fn valid_keys(network: &NetworkName, valid: &[Owner]) -> impl Fn(&str) -> bool {
    let network = Owner::network_key(network);
    let valid: HashSet<String> = valid.iter().map(Owner::key).collect();
    move |comment| comment.starts_with(&network) && comment.split(',').next().is_some_and(|key| !valid.contains(key))
}
