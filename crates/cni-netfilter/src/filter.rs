//! One door to both backends: an intent goes to the chosen one, and what is taken away is taken from wherever it is.

use std::cell::{OnceCell, RefCell};
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use cni_plugin::{Difference, LockError, NetworkName, Owner};
use ipnetwork::IpNetwork;

use crate::intent::{Backend, FormerHolders, MacGuard, MacGuardHint, Masquerade, Purpose};
use crate::iptables::{Family, Iptables, IptablesError};
use crate::links::{IsThere, index_exists};
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
    /// Another process doesn't let us have our turn.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The tools are there and the kernel doesn't answer them.
    #[error(
        "{tool} cannot read the kernel's rules, and {family} needs it: `{tool} -S INPUT` shows why; or set the backend to \
         nftables"
    )]
    IptablesUnusable {
        /// `iptables` or `ip6tables`.
        tool: &'static str,
        /// Its address family.
        family: Family,
    },
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
/// The nftables socket is opened at the first need and closed when this is dropped. Closing it after a deletion blocks
/// until the kernel's grace period has passed (5–15 ms): whoever deletes links too does so before dropping this.
pub struct Netfilter {
    nftables: OnceCell<Nftables>,
    pub(crate) holder_is_there: IsThere,
    /// The tables of iptables that its tools can show.
    pub(crate) shown: RefCell<Vec<(Family, &'static str)>>,
}

impl Default for Netfilter {
    fn default() -> Self {
        Self { nftables: OnceCell::new(), holder_is_there: index_exists, shown: RefCell::default() }
    }
}

impl Netfilter {
    /// Opens nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, with a better answer than whether there is any link with the number of a holder's.
    pub fn asking(holder_is_there: IsThere) -> Self {
        Self { holder_is_there, ..Self::default() }
    }

    /// The tools, asking in the same way.
    pub(crate) fn tools(&self) -> Result<Iptables, IptablesError> {
        Ok(Iptables::find()?.asking(self.holder_is_there))
    }

    /// Masquerades as `wanted` says. Idempotent. An address that another owner has is taken from it: it was given to this one,
    /// so that one is gone; unless it is of another network, and `is_alive` says yes to its key. With iptables they are in
    /// nobody's way.
    pub fn add_masquerade(
        &self,
        backend: Backend,
        wanted: &[Masquerade],
        is_alive: &dyn Fn(&str) -> bool,
    ) -> Result<FormerHolders, FilterError> {
        match backend {
            Backend::Iptables => {
                let tools = self.iptables_for(Purpose::Masquerade, wanted.iter().map(|of| of.address))?;
                Ok(tools.add_masquerade(wanted).map(|()| FormerHolders::default())?)
            }
            Backend::Nftables => Ok(self.nftables()?.add_masquerade(wanted, is_alive)?),
        }
    }

    /// What of `wanted` is missing or altered.
    pub fn check_masquerade(&self, backend: Backend, wanted: &[Masquerade]) -> Result<Vec<Difference>, FilterError> {
        match backend {
            Backend::Iptables => Ok(Iptables::find()?.check_masquerade(wanted)?),
            Backend::Nftables => Ok(self.nftables()?.check_masquerade(wanted)?),
        }
    }

    /// Removes the owner's masquerading from both backends, the Go plugins' for the same owner included. `hints` are the
    /// addresses it is known to have; without them everything is searched. Idempotent.
    pub fn remove_masquerade(&self, owner: &Owner, hints: &[IpNetwork]) -> Result<(), FilterError> {
        self.start_remove_masquerade(owner, hints).finish()
    }

    /// As [`Netfilter::remove_masquerade`], and returns while the iptables tools are at work: they wait for the kernel
    /// (about 15 ms), and so does whoever deletes a link meanwhile.
    pub fn start_remove_masquerade(&self, owner: &Owner, hints: &[IpNetwork]) -> Removal {
        let addresses: Vec<_> = hints.iter().map(IpNetwork::ip).collect();
        let nftables = self.in_nftables(|nft| nft.remove_masquerade(owner, &addresses));
        let (owned, hints) = (owner.clone(), hints.to_vec());
        let iptables = self.in_iptables("nat", &Iptables::masquerade_chains(owner), |tools| {
            let work = Arc::new(move || tools.remove_masquerade(&owned, &hints));
            let there = Arc::clone(&work);
            Ok(thread::Builder::new().spawn(move || there()).map_or_else(|_| Tools::Done(work()), Tools::AtWork))
        });
        Removal { nftables, iptables }
    }

    /// Takes [`Netfilter::add_masquerade`] back: as [`Netfilter::remove_masquerade`], and where iptables has nothing of it,
    /// its lock isn't waited for.
    pub fn take_back_masquerade(&self, owner: &Owner, hints: &[IpNetwork]) -> Result<(), FilterError> {
        let addresses: Vec<_> = hints.iter().map(IpNetwork::ip).collect();
        let nftables = self.in_nftables(|nft| nft.remove_masquerade(owner, &addresses));
        let chains = Iptables::masquerade_chains(owner);
        let iptables = self.in_iptables("nat", &chains, |tools| tools.take_back_masquerade(owner));
        nftables.and(iptables.map(drop))
    }

    /// Removes the masquerading of owners of `network` that are not in `valid`, from both backends.
    pub fn retain_masquerade(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), FilterError> {
        let nftables = self.in_nftables(|nft| nft.retain_masquerade(network, valid));
        let iptables = self.in_iptables_of_anybody("nat", |tools| tools.retain_masquerade(network, valid));
        nftables.and(iptables.map(drop))
    }

    /// Checks the source addresses of what a container sends. nftables does it whatever the backend, as for the Go
    /// plugin: iptables sees no frames. Idempotent.
    pub fn add_mac_guard(&self, guard: &MacGuard) -> Result<(), FilterError> {
        Ok(self.nftables()?.add_mac_guard(guard)?)
    }

    /// Fails, naming what is missing, if the kernel can't check source addresses.
    pub fn can_guard_macs(&self) -> Result<(), FilterError> {
        Ok(self.nftables()?.can_guard_macs()?)
    }

    /// What of `guard` is missing or altered.
    pub fn check_mac_guard(&self, guard: &MacGuard) -> Result<Vec<Difference>, FilterError> {
        Ok(self.nftables()?.check_mac_guard(guard)?)
    }

    /// Removes the owner's check, the Go plugin's for the same owner included. Constant time with a complete hint;
    /// `thorough` searches everything without one. Idempotent.
    pub fn remove_mac_guard(&self, owner: &Owner, hint: &MacGuardHint, thorough: bool) -> Result<(), FilterError> {
        self.in_nftables(|nft| nft.remove_mac_guard(owner, hint, thorough))
    }

    /// Removes the checks of owners of `network` that are not in `valid`, and the Go plugin's of ports that are gone.
    pub fn retain_mac_guards(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), FilterError> {
        self.in_nftables(|nft| nft.retain_mac_guards(network, valid))
    }

    pub(crate) fn nftables(&self) -> Result<&Nftables, NftError> {
        if let Some(open) = self.nftables.get() {
            return Ok(open);
        }
        let opened = Nftables::open()?.asking(self.holder_is_there);
        Ok(self.nftables.get_or_init(|| opened))
    }

    /// The tools for an addition, unless the tables of these addresses' families have something that they can't show: what
    /// is added there could be neither checked nor repaired.
    pub(crate) fn iptables_for(
        &self,
        purpose: Purpose,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Iptables, FilterError> {
        let tools = self.tools()?;
        Family::among(addresses).into_iter().try_for_each(|family| self.shows(family, purpose))?;
        Ok(tools)
    }

    /// A kernel without nf_tables has nothing to take away.
    pub(crate) fn in_nftables<T: Default>(
        &self,
        remove: impl FnOnce(&Nftables) -> Result<T, NftError>,
    ) -> Result<T, FilterError> {
        match self.nftables().map(remove) {
            Ok(Err(error)) if !error.is_absent() => Err(error.into()),
            Ok(Ok(removed)) => Ok(removed),
            _ => Ok(T::default()),
        }
    }

    /// Starts the tools only where something of theirs can be: one of `chains` in iptables-nft's tables, which netlink
    /// tells in constant time, or any legacy rule.
    ///
    /// What iptables-nft made is found and removed without the tools, if these are missing or don't work. Legacy tables may be
    /// anybody's, and only the tools can tell: if they don't, nothing of ours is known to be there. This goes to stderr, and
    /// is no failure, or DEL would fail for ever.
    pub(crate) fn in_iptables<C: AsRef<str>, T>(
        &self,
        table: &'static str,
        chains: &[C],
        remove: impl FnOnce(Iptables) -> Result<T, IptablesError>,
    ) -> Result<Option<T>, FilterError> {
        let ours = self.has_chain(table, chains)?;
        if !ours && !Family::ALL.iter().any(|family| family.legacy_in_use(table)) {
            return Ok(None);
        }
        match remove(Iptables::whatever_is_there()) {
            Err(error) if !ours && error.is_about_tools() => {
                eprintln!("there are legacy iptables rules, and whether any are this plugin's cannot be told: {error}");
                Ok(None)
            }
            outcome => Ok(outcome.map(Some)?),
        }
    }

    /// The same for a table in which chains of any owner count.
    pub(crate) fn in_iptables_of_anybody<T>(
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
}

/// A removal of which the iptables tools' part may still be going on. Dropped, it goes on by itself as long as the process
/// lives; so finish it.
#[must_use = "the tools may still be at work"]
pub struct Removal {
    nftables: Result<(), FilterError>,
    iptables: Result<Option<Tools>, FilterError>,
}

/// Without a thread to be had they are done at once.
enum Tools {
    AtWork(JoinHandle<Result<(), IptablesError>>),
    Done(Result<(), IptablesError>),
}

impl Removal {
    /// Waits for the end, and returns the first error.
    pub fn finish(self) -> Result<(), FilterError> {
        let iptables = match self.iptables? {
            Some(Tools::AtWork(thread)) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Some(Tools::Done(outcome)) => outcome,
            None => Ok(()),
        };
        self.nftables.and(iptables.map_err(FilterError::from))
    }
}
