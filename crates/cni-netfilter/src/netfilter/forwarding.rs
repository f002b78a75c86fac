//! What is forwarded from and to containers, and the policies of their bridges.
//!
//! A packet passes the chains of nftables, iptables-nft and legacy iptables: an accept in one does not keep another from
//! dropping it, and a policy must hold between two bridges whose policies are of different backends. So rules of the nftables
//! backend are completed by some in iptables' tables, and a policy of the iptables backend by some in nftables.

use std::net::IpAddr;
use std::rc::Rc;

use cni_plugin::{Difference, Family, IfName, NetworkName, Owner, Undo};

use super::{FilterError, Netfilter};
use crate::intent::{Attachments, Backend, Forwarding, Purpose};
use crate::iptables::{Iptables, IptablesError, Variant, legacy};
use crate::nftables::{ACCEPT_MARK, MARK_COMMENT, NftError, Nftables, RemovedForwarding};

impl Netfilter {
    /// Accepts what is forwarded for an attachment and keeps its bridge's policy. Idempotent; pushes the removal to `undo`. The
    /// latest call decides about the policy, and an address that another owner had becomes this one's.
    pub fn add_forwarding(
        self: &Rc<Self>,
        backend: Backend,
        wanted: &Forwarding,
        undo: &mut Undo,
    ) -> Result<(), FilterError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let (this, taken_back) = (Rc::clone(self), wanted.clone());
        undo.push("the firewall rules", move || this.take_back_forwarding(&taken_back));
        match backend {
            Backend::Iptables => {
                let tools = self.iptables_for(Purpose::Forwarding, wanted.addresses.iter().copied())?;
                tools.add_forwarding(wanted)?;
                self.keep_nftables_apart(wanted)
            }
            Backend::Nftables => {
                let released = self.nftables()?.add_forwarding(wanted, iptables_may_come())?;
                let families = Family::among(wanted.addresses.iter().copied());
                legacy::add(legacy_needs(&families, Some(ACCEPT_MARK), &wanted.closed_bridges()))?;
                release_legacy(&released)
            }
        }
    }

    /// Makes a policy of the iptables backend hold against bridges with one of the nftables backend.
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

    /// What of `wanted` is missing or altered in `backend`, unless all of it is in the other one; and the chains of other programs
    /// that drop it in spite of these rules.
    pub fn check_forwarding(
        &self,
        backend: Backend,
        wanted: &Forwarding,
        attached: &dyn Attachments,
    ) -> Result<Vec<Difference>, FilterError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let (mut differences, other_fits) =
            Self::check_both(backend, |backend| self.check_forwarding_in(backend, wanted, attached))?;
        let mut used = backend;
        if other_fits {
            (differences, used) = (Vec::new(), backend.other());
        }
        differences.extend(self.obstacles(used, &wanted.addresses)?);
        Ok(differences)
    }

    fn check_forwarding_in(
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
                let bridges = wanted.closed_bridges();
                differences.extend(legacy::check(legacy_needs(&families, Some(ACCEPT_MARK), &bridges))?);
                Ok(differences)
            }
        }
    }

    /// Removes the owner's accepts, and policies of bridges that have no attachment any more. `hint` is what the owner is thought
    /// to have; without it everything is searched. What the Go plugin made for the hint's addresses is removed too. Idempotent.
    ///
    /// Returns the addresses that the owner had in the nftables backend.
    pub fn remove_forwarding(&self, owner: &Owner, hint: Option<&Forwarding>) -> Result<Vec<IpAddr>, FilterError> {
        self.remove_from_both(|nft| nft.remove_forwarding(owner, hint), |tools| tools.remove_forwarding(owner, hint))
    }

    /// Takes [`Netfilter::add_forwarding`] back. Without a hint iptables' table is read first: where it has nothing of that, its
    /// lock isn't waited for.
    fn take_back_forwarding(&self, taken: &Forwarding) -> Result<(), FilterError> {
        let nftables = self.in_nftables(|nft| nft.remove_forwarding(&taken.owner, Some(taken)));
        let chains = &Iptables::FORWARDING_CHAINS;
        let iptables = self.in_iptables("filter", chains, |tools| tools.remove_forwarding(&taken.owner, None));
        nftables.map(drop).and(iptables.map(drop))
    }

    /// Removes the accepts of owners of `network` that are not in `valid`.
    ///
    /// Returns the addresses that they had in the nftables backend.
    pub fn retain_forwarding(&self, network: &NetworkName, valid: &[Owner]) -> Result<Vec<IpAddr>, FilterError> {
        self.remove_from_both(
            |nft| nft.retain_forwarding(network, valid),
            |tools| tools.retain_forwarding(network, valid),
        )
    }

    /// Both are tried; a bridge whose policy in nftables has ended need not be kept apart in legacy iptables.
    fn remove_from_both(
        &self,
        nftables: impl FnOnce(&Nftables) -> Result<RemovedForwarding, NftError>,
        iptables: impl FnOnce(Iptables) -> Result<(), IptablesError>,
    ) -> Result<Vec<IpAddr>, FilterError> {
        let removed = self.in_nftables(nftables);
        let released = removed.as_ref().map_or(Ok(()), |removed| release_legacy(&removed.bridges));
        let iptables = self.in_iptables("filter", &Iptables::FORWARDING_CHAINS, iptables);
        let removed = removed?;
        released.and(iptables.map(drop)).map(|()| removed.addresses)
    }

    /// Those of `addresses` that no owner has in the nftables backend.
    pub fn unowned(&self, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, FilterError> {
        match self.nftables() {
            Ok(nftables) => Ok(nftables.unowned(addresses)?),
            Err(_) => Ok(addresses.to_vec()),
        }
    }

    /// The backend to use where firewalld decides what passes: nftables if the kernel has it. The Go plugin makes no iptables
    /// rules beside firewalld, so after a return to it nothing would remove them.
    pub fn beside_firewalld(&self) -> Result<Backend, FilterError> {
        if self.nftables().is_ok() { Ok(Backend::Nftables) } else { self.choose(None, Purpose::Forwarding, &[]) }
    }

    /// The chains of other programs that drop what is forwarded for `addresses` although `backend` accepts it; without any
    /// address, for any container.
    ///
    /// A chain in which the backend accepts by itself is no obstacle: for iptables that of its own variant, for nftables those
    /// of both variants.
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

    /// The rules in legacy iptables that are missing for the policies of the nftables backend to hold there too, because its
    /// tables were loaded after the policies were made. The next ADD with a policy adds them.
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

/// Removes the rules of these bridges, whose policy in nftables has ended, from legacy iptables.
fn release_legacy(bridges: &[IfName]) -> Result<(), FilterError> {
    if bridges.is_empty() {
        return Ok(());
    }
    Ok(legacy::remove(MARK_COMMENT, |name| bridges.iter().any(|bridge| bridge.as_str() == name))?)
}
