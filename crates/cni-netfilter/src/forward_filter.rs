//! The door to both backends for what is forwarded.

use std::net::IpAddr;
use std::rc::Rc;

use cni_plugin::{Difference, IfName, NetworkName, Owner, Undo};

use crate::filter::{FilterError, Netfilter};
use crate::forwarding::{Attachments, Forwarding};
use crate::intent::{Backend, Purpose};
use crate::iptables::{Family, Iptables, Variant, firewall_legacy as legacy};
use crate::nftables::{ACCEPT_MARK, MARK_COMMENT};

impl Netfilter {
    /// [`Netfilter::add_forwarding`] that pushes the removal to `undo`: first, for each family is a transaction of its own,
    /// and the second may fail.
    pub fn forward(self: &Rc<Self>, backend: Backend, wanted: &Forwarding, undo: &mut Undo) -> Result<(), FilterError> {
        let (taken_back, taken) = (Rc::clone(self), wanted.clone());
        undo.push("the firewall rules", move || taken_back.take_back_forwarding(&taken));
        self.add_forwarding(backend, wanted)
    }

    /// Lets an attachment's traffic through and keeps its bridge's policy. Idempotent; see the backends for what happens
    /// to what was there.
    pub fn add_forwarding(&self, backend: Backend, wanted: &Forwarding) -> Result<(), FilterError> {
        match backend {
            _ if wanted.is_empty() => Ok(()),
            Backend::Iptables => {
                let tools = self.iptables_for(Purpose::Forwarding, wanted.addresses.iter().copied())?;
                tools.add_forwarding(wanted)?;
                self.keep_nftables_apart(wanted)
            }
            Backend::Nftables => {
                let released = self.nftables()?.add_forwarding(wanted, iptables_may_come())?;
                let bridges: Vec<IfName> = wanted.ingress.iter().map(|ingress| ingress.bridge.clone()).collect();
                let families = Family::among(wanted.addresses.iter().copied());
                legacy::add(legacy_needs(&families, Some(ACCEPT_MARK), &bridges))?;
                release_legacy(&released)
            }
        }
    }

    /// A policy of the iptables backend holds against bridges with one of the nftables backend.
    fn keep_nftables_apart(&self, wanted: &Forwarding) -> Result<(), FilterError> {
        let bridges = self.closed_in_nftables(wanted)?;
        if bridges.is_empty() {
            return Ok(());
        }
        self.nftables()?.keep_apart(&bridges, &wanted.addresses)?;
        Ok(legacy::add(legacy_needs(&Family::among(wanted.addresses.iter().copied()), None, &bridges))?)
    }

    fn closed_in_nftables(&self, wanted: &Forwarding) -> Result<Vec<IfName>, FilterError> {
        match self.nftables() {
            Ok(nftables) if wanted.ingress.is_some() => Ok(nftables.closed_bridges()?),
            _ => Ok(Vec::new()),
        }
    }

    /// What of `wanted` is missing or altered, and the chains of others that drop it in spite of our rules.
    ///
    /// Before an upgrade or a change of the configuration ADD may have used the other backend: where nothing is wrong with
    /// that, nothing is wrong.
    pub fn check_forwarding(
        &self,
        backend: Backend,
        wanted: &Forwarding,
        attached: &dyn Attachments,
    ) -> Result<Vec<Difference>, FilterError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut differences = self.check_in(backend, wanted, attached)?;
        let mut used = backend;
        let other = backend.other();
        if !differences.is_empty() && self.check_in(other, wanted, attached).is_ok_and(|found| found.is_empty()) {
            (differences, used) = (Vec::new(), other);
        }
        differences.extend(self.obstacles(used, &wanted.addresses)?);
        Ok(differences)
    }

    fn check_in(
        &self,
        backend: Backend,
        wanted: &Forwarding,
        attached: &dyn Attachments,
    ) -> Result<Vec<Difference>, FilterError> {
        let families = Family::among(wanted.addresses.iter().copied());
        match backend {
            Backend::Iptables => {
                let mut differences = Iptables::find()?.check_forwarding(wanted, attached)?;
                let bridges = self.closed_in_nftables(wanted)?;
                if !bridges.is_empty() {
                    differences.extend(self.nftables()?.check_apart(&bridges, &wanted.addresses)?);
                    differences.extend(legacy::check(legacy_needs(&families, None, &bridges))?);
                }
                Ok(differences)
            }
            Backend::Nftables => {
                let mut differences = self.nftables()?.check_forwarding(wanted, iptables_may_come())?;
                let bridges: Vec<IfName> = wanted.ingress.iter().map(|ingress| ingress.bridge.clone()).collect();
                differences.extend(legacy::check(legacy_needs(&families, Some(ACCEPT_MARK), &bridges))?);
                Ok(differences)
            }
        }
    }

    /// Removes what the owner may forward, and policies that nobody needs any more, from both backends. `hint` is what it
    /// is thought to have; without it everything is searched. What the Go plugin made for the hint's addresses goes too.
    ///
    /// Returns the addresses that the owner had in the nftables backend.
    pub fn remove_forwarding(&self, owner: &Owner, hint: Option<&Forwarding>) -> Result<Vec<IpAddr>, FilterError> {
        let removed = self.in_nftables(|nft| nft.remove_forwarding(owner, hint));
        let released = removed.as_ref().map_or(Ok(()), |removed| release_legacy(&removed.bridges));
        let chains = &Iptables::FORWARDING_CHAINS;
        let iptables = self.in_iptables("filter", chains, |tools| tools.remove_forwarding(owner, hint));
        let removed = removed?;
        released.and(iptables.map(drop)).map(|()| removed.addresses)
    }

    /// Takes [`Netfilter::add_forwarding`] back. iptables' table is read first: where it has nothing of that, its lock isn't
    /// waited for.
    fn take_back_forwarding(&self, taken: &Forwarding) -> Result<(), FilterError> {
        let nftables = self.in_nftables(|nft| nft.remove_forwarding(&taken.owner, Some(taken)));
        let chains = &Iptables::FORWARDING_CHAINS;
        let iptables = self.in_iptables("filter", chains, |tools| tools.remove_forwarding(&taken.owner, None));
        nftables.map(drop).and(iptables.map(drop))
    }

    /// Removes what owners of `network` that are not in `valid` may forward, from both backends.
    ///
    /// Returns the addresses that they had in the nftables backend.
    pub fn retain_forwarding(&self, network: &NetworkName, valid: &[Owner]) -> Result<Vec<IpAddr>, FilterError> {
        let removed = self.in_nftables(|nft| nft.retain_forwarding(network, valid));
        let released = removed.as_ref().map_or(Ok(()), |removed| release_legacy(&removed.bridges));
        let chains = &Iptables::FORWARDING_CHAINS;
        let iptables = self.in_iptables("filter", chains, |tools| tools.retain_forwarding(network, valid));
        let removed = removed?;
        released.and(iptables.map(drop)).map(|()| removed.addresses)
    }

    /// Those of `addresses` that nobody has in the nftables backend.
    pub fn unowned(&self, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, FilterError> {
        match self.nftables() {
            Ok(nftables) => Ok(nftables.unowned(addresses)?),
            Err(_) => Ok(addresses.to_vec()),
        }
    }

    /// The backend to use where firewalld decides what passes: nftables if the kernel has it, for iptables' rules would be
    /// nobody's when the Go plugin, which makes none beside firewalld, takes over.
    pub fn beside_firewalld(&self) -> Result<Backend, FilterError> {
        if self.nftables().is_ok() { Ok(Backend::Nftables) } else { self.choose(None, Purpose::Forwarding, &[]) }
    }

    /// The chains of others that drop what is forwarded for `addresses` although `backend` accepts it; without any
    /// address, for any container.
    ///
    /// Neither backend is hindered by the chain that it accepts in itself: iptables by that of its own variant, nftables
    /// by those of both.
    pub fn obstacles(&self, backend: Backend, addresses: &[IpAddr]) -> Result<Vec<Difference>, FilterError> {
        let iptables_is_legacy = backend == Backend::Iptables && legacy::is_default();
        let mut found = match self.nftables() {
            Ok(nftables) => nftables.obstacles(addresses, iptables_is_legacy)?,
            Err(_) => Vec::new(),
        };
        if backend == Backend::Iptables && !iptables_is_legacy {
            let families =
                if addresses.is_empty() { vec![Family::V4] } else { Family::among(addresses.iter().copied()) };
            found.extend(legacy::obstacles(&families)?);
        }
        Ok(found)
    }

    /// What is missing for the policies of the nftables backend to hold against those that legacy iptables may get: the tables
    /// came later than the policies. The next ADD with a policy mends it.
    pub fn unheld_policies(&self) -> Result<Vec<Difference>, FilterError> {
        let Ok(nftables) = self.nftables() else { return Ok(Vec::new()) };
        let bridges = nftables.closed_bridges()?;
        if bridges.is_empty() {
            return Ok(Vec::new());
        }
        Ok(legacy::check(legacy_needs(&Family::ALL, None, &bridges))?)
    }
}

/// True if the iptables tools of this node work on nf_tables: then the Go plugin, or the other backend, may make policies
/// in its tables at any time.
fn iptables_may_come() -> bool {
    Iptables::variant() == Some(Variant::Nft)
}

fn legacy_needs<'a>(families: &'a [Family], mark: Option<u32>, bridges: &'a [IfName]) -> legacy::Needs<'a> {
    legacy::Needs { families, mark, bridges, comment: MARK_COMMENT }
}

/// Bridges whose policy in nftables has ended need not be kept apart in legacy iptables.
fn release_legacy(bridges: &[IfName]) -> Result<(), FilterError> {
    if bridges.is_empty() {
        return Ok(());
    }
    Ok(legacy::remove(MARK_COMMENT, |name| bridges.iter().any(|bridge| bridge.as_str() == name))?)
}
