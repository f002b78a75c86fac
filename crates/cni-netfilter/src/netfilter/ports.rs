//! Published ports.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use cni_plugin::{Difference, Family, Lock, NetworkName, Owner, Protocol, Turn, Undo};
use ipnetwork::IpNetwork;

use super::{FilterError, Netfilter};
use crate::intent::{Backend, Displaced, PortForward, PortForwards, Purpose};
use crate::iptables::{Iptables, PortsCheck, legacy, legacy_in_use};
use crate::nftables::{GoPorts, Nftables, TableFamily};

impl Netfilter {
    /// Publishes ports, intents of one owner. Idempotent; pushes the removal to `undo`. Returns the ports that are no longer
    /// published: those that the owner had and does not want any more, and those of displaced holders.
    ///
    /// A port that another container has, in either backend or by a rule of the Go portmap's, is an error that names it. If that
    /// container is gone for certain ([`PortForwards::link`]), all its ports are withdrawn instead, which one line on stderr
    /// says. `addresses` lists the addresses in all network namespaces of the node: rules of the Go portmap name no link, and
    /// their container is gone when no namespace has its address. It is called only where such a rule has one of the ports.
    ///
    /// Waits for other ADDs of the same ports; other ports are not waited for, so that a tool that hangs blocks nothing else.
    pub fn add_ports<E: fmt::Display>(
        self: &Rc<Self>,
        backend: Backend,
        wanted: &[PortForwards],
        addresses: impl FnOnce() -> Result<HashSet<IpAddr>, E>,
        undo: &mut Undo,
    ) -> Result<Vec<PortForward>, FilterError> {
        let Some(PortForwards { owner, .. }) = wanted.first() else { return Ok(Vec::new()) };
        // Where there is no lock, this is right as long as no other ADD wants the same port.
        let ports = wanted.iter().flat_map(|wanted| &wanted.ports);
        let _turn = Lock::if_possible(Lock::of_ports(ports.map(|port| (port.protocol.number(), port.host_port))))?;
        let (this, taken_back, hints) = (Rc::clone(self), owner.clone(), wanted.to_vec());
        undo.push("the port rules", move || this.take_back_ports(&taken_back, &hints));

        let mut displaced = self.displace_go(wanted, addresses)?;
        displaced.extend(self.displace_in_other(backend, wanted)?);
        let (more, mut withdrawn) = self.add_ports_in(backend, wanted)?;
        displaced.extend(more);
        let holders: BTreeSet<&str> = displaced.iter().map(|former| former.holder.as_str()).collect();
        for holder in holders {
            eprintln!("withdrew the ports of {holder}, which no longer exists");
        }
        withdrawn.extend(displaced.into_iter().flat_map(|former| former.ports));
        Ok(withdrawn)
    }

    /// The targets of all who share one of these ports that outlive their connections: UDP and SCTP. For TCP a new connection is a new
    /// entry.
    pub fn partners(&self, wanted: &[PortForwards]) -> Result<HashSet<SocketAddr>, FilterError> {
        let persists = |port: &&PortForward| port.protocol != Protocol::Tcp;
        let shared: Vec<PortForward> =
            wanted.iter().flat_map(|wanted| wanted.shares.keys()).filter(persists).copied().collect();
        if shared.is_empty() { Ok(HashSet::new()) } else { self.in_nftables(|nft| nft.members(&shared)) }
    }

    fn add_ports_in(
        &self,
        backend: Backend,
        wanted: &[PortForwards],
    ) -> Result<(Vec<Displaced>, Vec<PortForward>), FilterError> {
        match backend {
            Backend::Iptables => {
                if wanted.iter().any(|wanted| wanted.guard_localnet) {
                    self.add_localnet_guard()?;
                }
                let tools = self.iptables_for(Purpose::Ports, wanted.iter().map(|of| of.container.ip()))?;
                Ok((tools.add_ports(wanted)?, Vec::new()))
            }
            Backend::Nftables => {
                // No tool runs while this is held.
                let _turn = Lock::if_possible(Lock::of_turn(Turn::NftablesPorts))?;
                Ok(self.nftables()?.add_ports(wanted)?)
            }
        }
    }

    /// Displaces the holders of these ports in the backend that isn't `backend`. A node whose configuration has changed has
    /// ports in both.
    fn displace_in_other(&self, backend: Backend, wanted: &[PortForwards]) -> Result<Vec<Displaced>, FilterError> {
        match backend {
            Backend::Iptables => self.in_nftables(|nft| nft.free_ports(wanted)),
            Backend::Nftables => {
                let enters = |family| self.in_nftables(|nft| nft.has_rules(family, "nat", Iptables::PORTS_CHAIN));
                let in_use = legacy_ports() || enters(TableFamily::Ip)? || enters(TableFamily::Ip6)?;
                let tools = Iptables::for_removal().asking(self.is_there);
                Ok(if in_use { tools.free_ports(wanted)? } else { Vec::new() })
            }
        }
    }

    /// Displaces the holders of these ports in the tables of the Go portmap. Without those tables this is a question a family.
    fn displace_go<E: fmt::Display>(
        &self,
        wanted: &[PortForwards],
        addresses: impl FnOnce() -> Result<HashSet<IpAddr>, E>,
    ) -> Result<Vec<Displaced>, FilterError> {
        let held = self.in_nftables(|nft| nft.go_holders(wanted))?;
        if held.is_empty() {
            return Ok(Vec::new());
        }
        let in_words = |ports: &GoPorts| format!("container {} ({})", ports.container, ports.address);
        let gone = without_address(held.iter().map(|held| held.ports.clone()).collect(), addresses)?;
        if let Some(alive) = held.iter().find(|held| !gone.contains(&held.ports)) {
            return Err(FilterError::HeldByGo { port: alive.port.clone(), holder: in_words(&alive.ports) });
        }
        self.in_nftables(|nft| nft.remove_go_ports(&gone))?;
        Ok(gone.iter().map(|ports| Displaced { holder: in_words(ports), ports: Vec::new() }).collect())
    }

    /// Fails, naming what is missing, if `backend` can publish ports in neither family: which one a network has, portmap learns
    /// with an ADD. `mark_chain`, the chain of another program that is to mark packets, has to exist too.
    pub fn can_add_ports(&self, backend: Backend, mark_chain: Option<&str>) -> Result<(), FilterError> {
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

    /// Fails, naming what is missing, if the kernel cannot let several containers share a port.
    pub fn can_share_ports(&self) -> Result<(), FilterError> {
        Ok(self.nftables()?.can_share()?)
    }

    /// What of `wanted` is missing or altered in the backend that ADD would use now. Where all of it is in the other one, or
    /// published by the Go plugin's nftables rules, nothing is missing.
    pub fn check_ports(
        &self,
        configured: Option<Backend>,
        wanted: &[PortForwards],
    ) -> Result<Vec<Difference>, FilterError> {
        let networks: Vec<IpNetwork> = wanted.iter().map(|of| of.container).collect();
        let backend = self.choose(configured, Purpose::Ports, &networks)?;
        let (mut differences, other_fits) = Self::check_both(backend, |backend| self.check_ports_in(backend, wanted))?;
        if !differences.is_empty() && (other_fits || self.in_nftables(|nft| nft.go_publishes(wanted))?) {
            // What remains: a port that another container has in this backend may take the packets all the same.
            differences.retain(|difference| !difference.is_missing());
        }
        Ok(differences)
    }

    fn check_ports_in(&self, backend: Backend, wanted: &[PortForwards]) -> Result<Vec<Difference>, FilterError> {
        match backend {
            Backend::Iptables => {
                let PortsCheck { mut differences, made_by_go } = Iptables::find()?.check_ports(wanted)?;
                // The Go plugin makes no guard. The next ADD makes it.
                if !made_by_go && wanted.iter().any(|wanted| wanted.guard_localnet) {
                    differences.extend(self.check_localnet_guard()?);
                }
                Ok(differences)
            }
            Backend::Nftables => Ok(self.nftables()?.check_ports(wanted)?),
        }
    }

    /// Removes the owner's ports. `hints` are the ports it is known to have; if they are not all, everything is searched.
    /// Idempotent. Returns what was published, which may lack what is in `hints`.
    pub fn remove_ports(&self, owner: &Owner, hints: &[PortForwards]) -> Result<Vec<PortForward>, FilterError> {
        let nftables = self.in_nftables(|nft| nft.remove_ports(owner, hints));
        let iptables = self.in_iptables("nat", &Iptables::port_chains(owner), |tools| tools.remove_ports(owner, hints));
        Ok([nftables?, iptables?.unwrap_or_default()].concat())
    }

    /// Takes [`Netfilter::add_ports`] back. Where iptables has nothing of it, its lock isn't waited for.
    fn take_back_ports(&self, owner: &Owner, hints: &[PortForwards]) -> Result<(), FilterError> {
        let nftables = self.in_nftables(|nft| nft.remove_ports(owner, hints));
        let iptables = self.in_iptables("nat", &Iptables::port_chains(owner), |tools| tools.take_back_ports(owner));
        nftables.map(drop).and(iptables.map(drop))
    }

    /// Removes the ports of owners of `network` that are not in `valid`. Returns what was published.
    pub fn retain_ports(&self, network: &NetworkName, valid: &[Owner]) -> Result<Vec<PortForward>, FilterError> {
        let nftables = self.in_nftables(|nft| nft.retain_ports(network, valid));
        let iptables = self.in_iptables_of_all("nat", |tools| tools.retain_ports(network, valid));
        Ok([nftables?, iptables?.unwrap_or_default()].concat())
    }

    /// Removes the rules that the Go portmap made in nftables for containers that are not in `valid` and whose address is not
    /// among `addresses`, those of the node. The rules name a container and no network, so `valid` alone cannot decide.
    pub fn retain_go_ports<E: fmt::Display>(
        &self,
        valid: &[Owner],
        addresses: impl FnOnce() -> Result<HashSet<IpAddr>, E>,
    ) -> Result<(), FilterError> {
        let mut ports = self.in_nftables(Nftables::go_ports)?;
        ports.retain(|ports| valid.iter().all(|owner| owner.container_id.as_str() != ports.container));
        let gone = without_address(ports, addresses)?;
        if gone.is_empty() { Ok(()) } else { self.in_nftables(|nft| nft.remove_go_ports(&gone)) }
    }
}

/// Those of the containers whose address is not on the node. `addresses` is called after the rules were read: a container has
/// its address before ports lead to it.
fn without_address<E: fmt::Display>(
    mut ports: BTreeSet<GoPorts>,
    addresses: impl FnOnce() -> Result<HashSet<IpAddr>, E>,
) -> Result<BTreeSet<GoPorts>, FilterError> {
    if !ports.is_empty() {
        let alive = addresses().map_err(|error| FilterError::Addresses(error.to_string()))?;
        ports.retain(|ports| !alive.contains(&ports.address));
    }
    Ok(ports)
}

/// True if there are legacy tables, and the tools in PATH can show them.
fn legacy_ports() -> bool {
    Family::ALL.iter().any(|family| legacy_in_use(*family, "nat")) && legacy::is_default()
}
