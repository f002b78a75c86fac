//! One door to both backends: an intent goes to the chosen one, and what is taken away is taken from wherever it is.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::thread::{self, JoinHandle};

use cni_plugin::{Difference, IfName, NetworkName, Owner};
use ipnetwork::IpNetwork;

use crate::conntrack::{self, Flush};
use crate::intent::{Backend, Evicted, MacGuard, MacGuardHint, Masquerade, PortForward, PortForwards, Protocol};
use crate::iptables::{Family, Iptables, IptablesError};
use crate::nftables::{GoPorts, NftError, Nftables, TableFamily};

/// Why the packet filter could not be changed or read. Nothing of the call was applied, unless the message says so.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The nftables backend.
    #[error(transparent)]
    Nftables(#[from] NftError),
    /// The iptables backend.
    #[error(transparent)]
    Iptables(#[from] IptablesError),
    /// The tools are there and the kernel doesn't answer them.
    #[error("iptables cannot read the kernel's rules: `iptables -S INPUT` shows why; or set the backend to nftables")]
    IptablesUnusable,
    /// Neither backend works here.
    #[error("no packet filter can be used: {iptables}; {nftables}")]
    NoBackend {
        /// Why not iptables.
        iptables: Box<IptablesError>,
        /// Why not nftables.
        nftables: Box<NftError>,
    },
}

/// The chains of the nat table that are there if anything is.
const NAT_CHAINS: [&str; 3] = ["PREROUTING", "POSTROUTING", "OUTPUT"];

/// The packet filter of the namespace that the calling thread is in.
///
/// The nftables socket is opened at the first need and closed when this is dropped. Closing it after a deletion blocks
/// until the kernel's grace period has passed (5–15 ms): whoever deletes links too does so before dropping this.
#[derive(Default)]
pub struct Netfilter {
    nftables: OnceCell<Nftables>,
}

impl Netfilter {
    /// Opens nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The backend to use: the configured one, else as the Go plugins choose: iptables where its tools are, else
    /// nftables.
    pub fn choose(&self, configured: Option<Backend>) -> Result<Backend, FilterError> {
        if let Some(backend) = configured {
            return Ok(backend);
        }
        let Err(iptables) = Iptables::find() else { return Ok(Backend::Iptables) };
        match self.nftables().and_then(Nftables::usable) {
            Ok(()) => Ok(Backend::Nftables),
            Err(nftables) => Err(FilterError::NoBackend { iptables: Box::new(iptables), nftables: Box::new(nftables) }),
        }
    }

    /// Fails, naming what is missing, if `backend` doesn't work here.
    pub fn usable(&self, backend: Backend) -> Result<(), FilterError> {
        match backend {
            Backend::Iptables => {
                let usable = Iptables::find()?.usable(Family::V4);
                if usable { Ok(()) } else { Err(FilterError::IptablesUnusable) }
            }
            Backend::Nftables => Ok(self.nftables()?.usable()?),
        }
    }

    /// Masquerades as `wanted` says. Idempotent. An address that another owner has is taken from it: it was given to this one,
    /// so that one is gone. Returns those in words; with iptables they are in nobody's way.
    pub fn add_masquerade(&self, backend: Backend, wanted: &[Masquerade]) -> Result<Vec<String>, FilterError> {
        match backend {
            Backend::Iptables => Ok(Iptables::find()?.add_masquerade(wanted).map(|()| Vec::new())?),
            Backend::Nftables => Ok(self.nftables()?.add_masquerade(wanted)?),
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
            Ok(thread::spawn(move || tools.remove_masquerade(&owned, &hints)))
        });
        Removal { nftables, iptables }
    }

    /// Removes the masquerading of owners of `network` that are not in `valid`, from both backends.
    pub fn retain_masquerade(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), FilterError> {
        let nftables = self.in_nftables(|nft| nft.retain_masquerade(network, valid));
        let iptables = self.in_iptables("nat", &NAT_CHAINS, |tools| tools.retain_masquerade(network, valid));
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

    /// Publishes ports. Idempotent for the same owner; a port that another owner has is an error that names it, unless that
    /// owner's container is gone for certain ([`PortForwards::link`]): then it is evicted. Returns those.
    pub fn add_ports(&self, backend: Backend, wanted: &[PortForwards]) -> Result<Vec<Evicted>, FilterError> {
        match backend {
            Backend::Iptables => Ok(Iptables::find()?.add_ports(wanted)?),
            Backend::Nftables => Ok(self.nftables()?.add_ports(wanted)?),
        }
    }

    /// What of `wanted` is missing or altered.
    pub fn check_ports(&self, backend: Backend, wanted: &[PortForwards]) -> Result<Vec<Difference>, FilterError> {
        match backend {
            Backend::Iptables => Ok(Iptables::find()?.check_ports(wanted)?),
            Backend::Nftables => Ok(self.nftables()?.check_ports(wanted)?),
        }
    }

    /// Removes the owner's ports from both backends, as [`Netfilter::remove_masquerade`] does. Returns what was published,
    /// which may lack what is in `hints`.
    pub fn remove_ports(&self, owner: &Owner, hints: &[PortForwards]) -> Result<Vec<PortForward>, FilterError> {
        let nftables = self.in_nftables(|nft| nft.remove_ports(owner, hints));
        let iptables = self.in_iptables("nat", &Iptables::port_chains(owner), |tools| tools.remove_ports(owner, hints));
        Ok([nftables?, iptables?.unwrap_or_default()].concat())
    }

    /// Removes the ports of owners of `network` that are not in `valid`, and the guards of interfaces that are gone, from
    /// both backends. Returns what was published.
    pub fn retain_ports(&self, network: &NetworkName, valid: &[Owner]) -> Result<Vec<PortForward>, FilterError> {
        let nftables = self.in_nftables(|nft| nft.retain_ports(network, valid));
        let iptables = self.in_iptables("nat", &NAT_CHAINS, |tools| tools.retain_ports(network, valid));
        let guards = self.in_iptables("raw", &[Iptables::guard_chain()], |tools| tools.retain_guards());
        guards?;
        Ok([nftables?, iptables?.unwrap_or_default()].concat())
    }

    /// The containers for which the Go portmap published ports by nftables: [`Nftables::go_ports`].
    pub fn go_ports(&self) -> Result<BTreeSet<GoPorts>, FilterError> {
        self.in_nftables(Nftables::go_ports)
    }

    /// Removes these. Idempotent.
    pub fn remove_go_ports(&self, those: &BTreeSet<GoPorts>) -> Result<(), FilterError> {
        self.in_nftables(|nft| nft.remove_go_ports(those))
    }

    /// Forgets connections to these ports: those that lead to the ports' container, or, of UDP and SCTP, those that lead
    /// elsewhere. Without that, a client that never pauses would stay with a container that is gone, and one of TCP wait for
    /// it. Idempotent; returns how many there were.
    ///
    /// A TCP connection that leads elsewhere is no obstacle, for a new one is a new entry; and what led to another
    /// container has been forgotten when that one's ports were withdrawn.
    pub fn forget_flows<'a>(
        &self,
        ports: impl IntoIterator<Item = &'a PortForward>,
        which: Flush<'_>,
    ) -> Result<usize, FilterError> {
        let pins = |port: &&PortForward| port.protocol != Protocol::Tcp || matches!(which, Flush::Ours);
        let pinned: BTreeSet<_> = ports.into_iter().filter(pins).copied().collect();
        Ok(conntrack::flush_forwards(&Vec::from_iter(pinned), which)?)
    }

    /// Removes the `route_localnet` guard of `interface` from both backends: for an interface that no other attachment
    /// shares, when it is about to go or gone. Idempotent.
    pub fn remove_guard(&self, interface: &IfName) -> Result<(), FilterError> {
        let nftables = self.in_nftables(|nft| nft.remove_guard(interface));
        let iptables = self.in_iptables("raw", &[Iptables::guard_chain()], |tools| tools.remove_guard(interface));
        nftables.and(iptables.map(drop))
    }

    pub(crate) fn nftables(&self) -> Result<&Nftables, NftError> {
        if let Some(open) = self.nftables.get() {
            return Ok(open);
        }
        let opened = Nftables::open()?;
        Ok(self.nftables.get_or_init(|| opened))
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
    pub(crate) fn in_iptables<C: AsRef<str>, T>(
        &self,
        table: &str,
        chains: &[C],
        remove: impl FnOnce(Iptables) -> Result<T, IptablesError>,
    ) -> Result<Option<T>, FilterError> {
        if Family::ALL.iter().any(|family| family.legacy_in_use(table)) || self.has_chain(table, chains)? {
            return Ok(Some(remove(Iptables::find()?)?));
        }
        Ok(None)
    }

    fn has_chain<C: AsRef<str>>(&self, table: &str, chains: &[C]) -> Result<bool, FilterError> {
        let Ok(nftables) = self.nftables() else { return Ok(false) };
        for family in [TableFamily::Ip, TableFamily::Ip6] {
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
    iptables: Result<Option<JoinHandle<Result<(), IptablesError>>>, FilterError>,
}

impl Removal {
    /// Waits for the end, and returns the first error.
    pub fn finish(self) -> Result<(), FilterError> {
        let iptables = match self.iptables? {
            Some(tools) => tools.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            None => Ok(()),
        };
        self.nftables.and(iptables.map_err(FilterError::from))
    }
}
