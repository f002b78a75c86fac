//! The door to both backends for published ports.

use std::collections::BTreeSet;

use cni_plugin::{Difference, Lock, NetworkName, Owner, Turn};
use ipnetwork::IpNetwork;

use crate::conntrack::{self, Flush};
use crate::filter::{FilterError, Netfilter};
use crate::intent::{Backend, Displaced, Evicted, PortForward, PortForwards, Protocol, Purpose};
use crate::iptables::{Family, Iptables, firewall_legacy as legacy};
use crate::nftables::{GoHeld, GoPorts, Nftables, TableFamily};

impl Netfilter {
    /// Publishes ports. Idempotent for the same owner; a port that another owner has, in either backend, is an error that
    /// names it, unless that owner's container is gone for certain ([`PortForwards::link`]): then it is evicted. Returns
    /// what is published no more.
    pub fn add_ports(&self, backend: Backend, wanted: &[PortForwards]) -> Result<Displaced, FilterError> {
        let mut evicted = self.free_ports_of_other(backend, wanted)?;
        if backend == Backend::Iptables && wanted.iter().any(|wanted| wanted.guard_localnet) {
            self.guard_localnet()?;
        }
        let mut displaced = match backend {
            Backend::Iptables => {
                let tools = self.iptables_for(Purpose::Ports, wanted.iter().map(|of| of.container.ip()))?;
                Displaced { evicted: tools.add_ports(wanted)?, ..Displaced::default() }
            }
            Backend::Nftables => {
                // No tool is waited for meanwhile.
                let _turn = Lock::if_possible(Lock::of_turn(Turn::NftablesPorts))?;
                self.nftables()?.add_ports(wanted)?
            }
        };
        evicted.append(&mut displaced.evicted);
        Ok(Displaced { evicted, ..displaced })
    }

    /// Evicts whoever is gone from these ports in the backend that isn't `backend`, and fails if somebody there is alive. A
    /// node whose configuration has changed has some in either.
    fn free_ports_of_other(&self, backend: Backend, wanted: &[PortForwards]) -> Result<Vec<Evicted>, FilterError> {
        match backend {
            Backend::Iptables => self.in_nftables(|nft| nft.free_ports(wanted)),
            Backend::Nftables => {
                let enters = |family| self.in_nftables(|nft| nft.has_rules(family, "nat", Iptables::PORTS_CHAIN));
                let there = legacy_ports() || enters(TableFamily::Ip)? || enters(TableFamily::Ip6)?;
                let tools = Iptables::whatever_is_there().asking(self.holder_is_there);
                Ok(if there { tools.free_ports(wanted)? } else { Vec::new() })
            }
        }
    }

    /// Fails, naming what is missing, if `backend` can publish ports in neither family. Which one a network has, portmap isn't
    /// told before an ADD. Where somebody else's chain is to mark packets, that has to be there too.
    pub fn can_publish(&self, backend: Backend, mark_chain: Option<&str>) -> Result<(), FilterError> {
        match backend {
            Backend::Iptables => {
                self.usable(backend, Purpose::Ports, &[])?;
                let Some(chain) = mark_chain else { return Ok(()) };
                let exists = |family| self.in_nftables(|nft| nft.chain_exists(family, "nat", chain));
                if exists(TableFamily::Ip)? || exists(TableFamily::Ip6)? {
                    return Ok(());
                }
                Ok(Iptables::find()?.require_mark_chain(chain)?)
            }
            Backend::Nftables => Ok(self.nftables()?.can_publish()?),
        }
    }

    /// What of `wanted` is missing or altered in the backend that ADD would use now. Before an upgrade or a change of the
    /// configuration it may have been the other one, or the Go plugin's nftables: where nothing is wrong with that, nothing is
    /// wrong.
    pub fn compare_ports(
        &self,
        configured: Option<Backend>,
        wanted: &[PortForwards],
    ) -> Result<Vec<Difference>, FilterError> {
        let networks: Vec<IpNetwork> = wanted.iter().map(|of| of.container).collect();
        let backend = self.choose(configured, Purpose::Ports, &networks)?;
        let differences = self.check_ports(backend, wanted)?;
        let fits_other = || self.check_ports(backend.other(), wanted).is_ok_and(|found| found.is_empty());
        let fits_go = || self.in_nftables(|nft| nft.go_publishes(wanted));
        if differences.is_empty() || !(fits_other() || fits_go()?) {
            return Ok(differences);
        }
        // A port that another container has in this backend may take the packets all the same.
        Ok(differences.into_iter().filter(|difference| !difference.is_missing()).collect())
    }

    fn check_ports(&self, backend: Backend, wanted: &[PortForwards]) -> Result<Vec<Difference>, FilterError> {
        match backend {
            Backend::Iptables => {
                let (mut differences, is_gos) = Iptables::find()?.check_ports_and_maker(wanted)?;
                // Go makes no guard. It comes with the next of our ADDs.
                if !is_gos && wanted.iter().any(|wanted| wanted.guard_localnet) {
                    differences.extend(self.check_localnet_guard()?);
                }
                Ok(differences)
            }
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

    /// Takes [`Netfilter::add_ports`] back, as [`Netfilter::take_back_masquerade`] does.
    pub fn take_back_ports(&self, owner: &Owner, hints: &[PortForwards]) -> Result<(), FilterError> {
        let nftables = self.in_nftables(|nft| nft.remove_ports(owner, hints));
        let iptables = self.in_iptables("nat", &Iptables::port_chains(owner), |tools| tools.take_back_ports(owner));
        nftables.map(drop).and(iptables.map(drop))
    }

    /// Removes the ports of owners of `network` that are not in `valid`, from both backends. Returns what was published.
    pub fn retain_ports(&self, network: &NetworkName, valid: &[Owner]) -> Result<Vec<PortForward>, FilterError> {
        let nftables = self.in_nftables(|nft| nft.retain_ports(network, valid));
        let iptables = self.in_iptables_of_anybody("nat", |tools| tools.retain_ports(network, valid));
        Ok([nftables?, iptables?.unwrap_or_default()].concat())
    }

    /// The containers for which the Go portmap published ports by nftables: [`Nftables::go_ports`].
    pub fn go_ports(&self) -> Result<BTreeSet<GoPorts>, FilterError> {
        self.in_nftables(Nftables::go_ports)
    }

    /// Those of them that have a port of `wanted`: [`Nftables::go_holders`].
    pub fn go_holders(&self, wanted: &[PortForwards]) -> Result<Vec<GoHeld>, FilterError> {
        self.in_nftables(|nft| nft.go_holders(wanted))
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
        ports: impl IntoIterator<Item = &'a PortForward>,
        which: Flush<'_>,
    ) -> Result<usize, FilterError> {
        let pins = |port: &&PortForward| port.protocol != Protocol::Tcp || matches!(which, Flush::Ours);
        let pinned: BTreeSet<_> = ports.into_iter().filter(pins).copied().collect();
        Ok(conntrack::flush_forwards(&Vec::from_iter(pinned), which)?)
    }

    /// Drops what arrives from or for 127.0.0.0/8 by another interface than `lo`, whatever the ports' backend: with nf_tables
    /// where the kernel has them, as that starts no process and is no part of the rules that an iptables script replaces; else
    /// with iptables. Idempotent; it stays.
    pub fn guard_localnet(&self) -> Result<(), FilterError> {
        match self.nftables().and_then(Nftables::guard_localnet) {
            Err(error) if error.is_absent() => Ok(Iptables::find()?.guard_localnet()?),
            outcome => Ok(outcome?),
        }
    }

    /// STATUS, where `route_localnet` is on: says on stderr what of the guard is missing.
    pub fn warn_of_unguarded_localnet(&self) -> Result<(), FilterError> {
        let missing: Vec<String> = self.check_localnet_guard()?.iter().map(ToString::to_string).collect();
        if !missing.is_empty() {
            eprintln!(
                "containers can reach this node's 127.0.0.1 until the next ADD or GC, as its guard was removed: {}",
                missing.join("; ")
            );
        }
        Ok(())
    }

    /// What of [`Netfilter::guard_localnet`] is missing or altered, or dormant.
    pub fn check_localnet_guard(&self) -> Result<Vec<Difference>, FilterError> {
        match self.nftables().and_then(Nftables::check_localnet_guard) {
            Err(error) if error.is_absent() => Ok(Iptables::find()?.check_localnet_guard()?),
            outcome => Ok(outcome?),
        }
    }
}

/// True if the tools in PATH are those that can tell what is in legacy tables, and there are such tables.
fn legacy_ports() -> bool {
    Family::ALL.iter().any(|family| family.legacy_in_use("nat")) && legacy::is_default()
}
