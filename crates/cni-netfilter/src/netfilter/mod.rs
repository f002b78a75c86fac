//! The interface to both backends. Rules are added to the chosen one and removed from both.
//!
//! A file an intent, each with the same words: `add_X` is idempotent and pushes its removal to `undo` first, because each
//! address family is a transaction of its own and the second may fail; `check_X` names differences and changes nothing;
//! `remove_X` removes what an owner has, and is idempotent; `retain_X` removes what owners of a network have that are not in a
//! list of valid ones. `remove_X` and `retain_X` also remove what the Go plugins made, and search both backends.

mod choice;
mod dns_redirect;
mod forwarding;
mod localnet_guard;
mod mac_guard;
mod masquerade;
mod open_ports;
mod ports;
mod published_only;
mod vxlan_peers;

use std::cell::{OnceCell, RefCell};
use std::net::IpAddr;

use cni_plugin::{Difference, Family, LockError};

use crate::intent::{Backend, IsThere, Purpose};
use crate::iptables::{Iptables, IptablesError, legacy_in_use};
use crate::links::index_exists;
use crate::nftables::{NftError, Nftables, TableFamily};

/// Why the packet filter could not be changed or read. Nothing of the call was applied, unless the message says so.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The nftables backend.
    #[error(transparent)]
    Nftables(#[from] NftError),
    /// The iptables backend.
    #[error(transparent)]
    Iptables(#[from] IptablesError),
    /// Another process holds a lock for too long.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The tools are there, but cannot read the kernel's rules.
    #[error(
        "{tool}, which {family} needs, cannot read the kernel's rules: run `{tool} -S INPUT` to see why, or set the backend \
         to nftables"
    )]
    IptablesUnusable {
        /// `iptables` or `ip6tables`.
        tool: &'static str,
        /// Its address family.
        family: Family,
    },
    /// A container has one of the ports by a rule of the Go portmap's in nftables. Nothing was changed.
    #[error(
        "{port} is held by {holder}, by a rule that the Go plugin made in nftables: detach that container first, or \
         request another one"
    )]
    HeldByGo {
        /// The port in words.
        port: String,
        /// The container, and its address.
        holder: String,
    },
    /// Which containers are gone could not be determined. Nothing was removed.
    #[error("cannot list the addresses of the node's containers: {0}")]
    Addresses(String),
    /// Neither backend works here.
    #[error("no packet filter can be used: {iptables}; {nftables}")]
    NoBackend {
        /// Why not iptables.
        iptables: Box<FilterError>,
        /// Why not nftables.
        nftables: Box<NftError>,
    },
}

/// The packet filter of the namespace that the calling thread is in.
///
/// The nftables socket is opened when it is first needed and closed when this is dropped. Before Linux 6.10, closing it
/// after a deletion blocks until the kernel's grace period has passed (5–15 ms): a caller that deletes links too does so before
/// dropping this.
pub struct Netfilter {
    nftables: OnceCell<Nftables>,
    is_there: IsThere,
    /// The tables of iptables that its tools can show.
    shown: RefCell<Vec<(Family, &'static str)>>,
}

impl Default for Netfilter {
    fn default() -> Self {
        Self { nftables: OnceCell::new(), is_there: index_exists, shown: RefCell::default() }
    }
}

impl Netfilter {
    /// Creates the interface to both backends; opens no socket and runs no tool yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// For additions: the same, with a better answer to whether a former holder's container is gone than whether there is any
    /// link with the index of its link.
    pub fn asking(is_there: IsThere) -> Self {
        Self { is_there, ..Self::default() }
    }

    fn nftables(&self) -> Result<&Nftables, NftError> {
        if let Some(open) = self.nftables.get() {
            return Ok(open);
        }
        let opened = Nftables::open()?.asking(self.is_there);
        Ok(self.nftables.get_or_init(|| opened))
    }

    /// The tools for an addition. Fails if a table of these addresses' families has something that they can't show, because
    /// what is added there could be neither checked nor repaired.
    fn iptables_for(
        &self,
        purpose: Purpose,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Iptables, FilterError> {
        let tools = Iptables::find()?.asking(self.is_there);
        Family::among(addresses).into_iter().try_for_each(|family| self.shows(family, purpose))?;
        Ok(tools)
    }

    /// A kernel without nf_tables has nothing to be removed or found.
    fn in_nftables<T: Default>(&self, remove: impl FnOnce(&Nftables) -> Result<T, NftError>) -> Result<T, FilterError> {
        match self.nftables().map(remove) {
            Ok(Err(error)) if !error.is_absent() => Err(error.into()),
            Ok(Ok(removed)) => Ok(removed),
            _ => Ok(T::default()),
        }
    }

    /// Starts the tools only if there can be something for them to remove: one of `chains` in iptables-nft's tables, which
    /// netlink finds in constant time, or any legacy rule.
    ///
    /// Where the tools are missing or don't work, what iptables-nft made is found and removed over netlink. Legacy tables can
    /// be read by the tools only; without them nothing of the plugin's is known to be there. That is written to stderr and is
    /// no failure, or DEL would fail for ever.
    fn in_iptables<C: AsRef<str>, T>(
        &self,
        table: &'static str,
        chains: &[C],
        remove: impl FnOnce(Iptables) -> Result<T, IptablesError>,
    ) -> Result<Option<T>, FilterError> {
        let ours = self.has_chain(table, chains)?;
        if !ours && !Family::ALL.iter().any(|family| legacy_in_use(*family, table)) {
            return Ok(None);
        }
        match remove(Iptables::for_removal()) {
            Err(error) if !ours && error.is_about_tools() => {
                eprintln!("cannot check the tables of legacy iptables for rules of this plugin: {error}");
                Ok(None)
            }
            outcome => Ok(outcome.map(Some)?),
        }
    }

    /// The same where the chains of all owners count.
    fn in_iptables_of_all<T>(
        &self,
        table: &'static str,
        remove: impl FnOnce(Iptables) -> Result<T, IptablesError>,
    ) -> Result<Option<T>, FilterError> {
        let chains = self.in_nftables(|nft| nft.chains_of_iptables(table, "CNI-"))?;
        self.in_iptables(table, &chains, remove)
    }

    fn has_chain<C: AsRef<str>>(&self, table: &'static str, chains: &[C]) -> Result<bool, FilterError> {
        let Ok(nftables) = self.nftables() else { return Ok(false) };
        for family in Family::ALL.map(TableFamily::from) {
            for chain in chains {
                if nftables.chain_exists(family, table, chain.as_ref())? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// What `check` finds in `backend`, and whether the other backend has no difference at all: before an upgrade or a change
    /// of the configuration, ADD may have used that one.
    fn check_both(
        backend: Backend,
        check: impl Fn(Backend) -> Result<Vec<Difference>, FilterError>,
    ) -> Result<(Vec<Difference>, bool), FilterError> {
        let differences = check(backend)?;
        let other_fits = !differences.is_empty() && check(backend.other()).is_ok_and(|found| found.is_empty());
        Ok((differences, other_fits))
    }
}
