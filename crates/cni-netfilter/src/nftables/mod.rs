//! The nftables backend: intents become elements of maps in tables of this plugin, over netlink, without the `nft` tool.
//!
//! What belongs to a container is an element, with its owner in its comment; what is shared (tables, maps, chains, rules)
//! is made when it is first needed. `nft list ruleset` shows all of it, and `nft -f` can load that again.
//!
//! | table | maps and sets | what it does |
//! |---|---|---|
//! | `inet cni_masquerade` | `hosts4`, `hosts6`: container's address → `goto subnet-…` | masquerades what leaves the subnet |
//! | `ip cni_ports`, `ip6 cni_ports` | `ports`: protocol, host port → container; `address_ports`: the same with a host address | forwards what is for this node |
//! | | `conditions`, `address_conditions`: the same keys → `goto when-…` | asks the conditions of a mapping |
//! | | `claims`: the same keys with a rank → container | the waitlist: ports of a container's further networks, which take over |
//! | | `shares`, `address_shares`: the same keys → `goto any-of-…` | ports of several containers: leads to the choice of one |
//! | | `members`, `address_members`: the same keys with a rank → container | the containers that share a port |
//! | | `sources`: container, protocol, its port, host port → `goto snat-…` | masquerades forwarded connections |
//! | `bridge cni_macspoof` | `guarded`, `allowed`: bridge port, bridge port and MAC address | drops other source addresses |
//! | `inet cni_firewall` | `accept4`, `accept6`, `behind4`, `behind6`: container; `inside`, `closed`: bridge | marks what is accepted, drops between bridges |
//! | `inet cni_published_only` | `closed4`, `closed6`: container → `goto behind-…`; `containers4`, `containers6` | drops new connections that ask a container directly |
//! | `inet cni_open_ports` | `open4`, `open6`: container, its port | marks connections to ports that are published without translation |
//! | `ip cni_dnsname`, `ip6 cni_dnsname` | `servers`: interface, container, server → resolver; `intercepted`: without the server | redirects port 53 |
//! | each of these | `owners`: owner → number of elements, link | says in constant time how much an owner has |
//! | `ip cni_localnet` | | drops what arrives for or from 127.0.0.0/8 by another interface than `lo` |
//! | `inet cni_vxlan` | `ports`: UDP port; `peers4`, `peers6`: port, address | drops VXLAN packets from addresses that are no peers |
//!
//! A packet costs the same number of lookups however many elements there are. So does a deletion; an addition to a map of
//! verdicts lets the kernel validate all of its chains (`nft_table_validate`), 50 ns for each element that is there.

mod dns_redirect;
mod forwarding;
mod go_rules;
mod inventory;
mod localnet;
mod mac_guard;
mod masquerade;
mod open_ports;
mod owned;
mod ports;
#[cfg(any(test, fuzzing))]
mod properties;
mod published_only;
mod ruleset;
mod usable;
mod vxlan_peers;
mod wire;
mod xtables;

use crate::intent::IsThere;
use crate::links::index_exists;

pub(crate) use forwarding::RemovedForwarding;
pub(crate) use forwarding::iptables::COMMENT as MARK_COMMENT;
pub(crate) use forwarding::skeleton::MARK as ACCEPT_MARK;
pub(crate) use go_rules::ports::GoPorts;
#[cfg(any(test, fuzzing))]
pub use properties::{answers_hold, conditions_hold};
pub(crate) use published_only::PUBLISHED_MARK;
pub(crate) use wire::Socket;
pub use wire::{NftError, TableFamily};
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

    /// The same session, which asks `holder_is_there` whether the container of a port's holder still exists.
    pub(crate) fn asking(self, holder_is_there: IsThere) -> Self {
        Self { holder_is_there, ..self }
    }
}
