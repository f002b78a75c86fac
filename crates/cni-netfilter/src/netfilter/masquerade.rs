//! Masquerading: adds, checks and removes the rules in the chosen backend.

use std::rc::Rc;

use cni_plugin::{Difference, NetworkName, Owner, Undo};
use ipnetwork::IpNetwork;

use super::{FilterError, Netfilter};
use crate::intent::{Backend, Masquerade, Purpose};
use crate::iptables::Iptables;

impl Netfilter {
    /// Masquerades what `wanted`, intents of one owner, says. Idempotent; pushes the removal to `undo`.
    ///
    /// With nftables an address is masqueraded for one owner. Another holder loses it, because IPAM gave it to this one; but a
    /// holder of another network, where the same address may be in use, keeps it while its container is there
    /// ([`Netfilter::asking`]), and is named on stderr.
    pub fn add_masquerade(
        self: &Rc<Self>,
        backend: Backend,
        wanted: &[Masquerade],
        undo: &mut Undo,
    ) -> Result<(), FilterError> {
        let Some(Masquerade { owner, .. }) = wanted.first() else { return Ok(()) };
        let (this, taken_back) = (Rc::clone(self), owner.clone());
        let hints: Vec<IpNetwork> = wanted.iter().map(|of| of.subnet).collect();
        undo.push("the masquerade rules", move || this.take_back_masquerade(&taken_back, &hints));
        match backend {
            Backend::Iptables => {
                let tools = self.iptables_for(Purpose::Masquerade, wanted.iter().map(|of| of.address))?;
                tools.add_masquerade(wanted)?;
            }
            Backend::Nftables => {
                for holder in self.nftables()?.add_masquerade(wanted)? {
                    eprintln!(
                        "{owner} is not masqueraded: {holder} has the same address, and the masquerade rule is for that \
                         container; give the networks different subnets"
                    );
                }
            }
        }
        Ok(())
    }

    /// What of `wanted` is missing or altered in the backend that ADD would use now; nothing if all of it is in the other one.
    pub fn check_masquerade(
        &self,
        configured: Option<Backend>,
        wanted: &[Masquerade],
    ) -> Result<Vec<Difference>, FilterError> {
        let networks: Vec<IpNetwork> = wanted.iter().map(|of| of.subnet).collect();
        let backend = self.choose(configured, Purpose::Masquerade, &networks)?;
        let (differences, other_fits) = Self::check_both(backend, |backend| match backend {
            Backend::Iptables => Ok(Iptables::find()?.check_masquerade(wanted)?),
            Backend::Nftables => Ok(self.nftables()?.check_masquerade(wanted)?),
        })?;
        Ok(if other_fits { Vec::new() } else { differences })
    }

    /// Removes the owner's masquerading. `hints` are the addresses it is known to have; if they are not all, everything is
    /// searched. Idempotent.
    pub fn remove_masquerade(&self, owner: &Owner, hints: &[IpNetwork]) -> Result<(), FilterError> {
        let nftables = self.remove_from_nftables(owner, hints);
        let chains = Iptables::masquerade_chains(owner);
        let iptables = self.in_iptables("nat", &chains, |tools| tools.remove_masquerade(owner, hints));
        nftables.and(iptables.map(drop))
    }

    /// Takes [`Netfilter::add_masquerade`] back. Where iptables has nothing of it, its lock isn't waited for.
    fn take_back_masquerade(&self, owner: &Owner, hints: &[IpNetwork]) -> Result<(), FilterError> {
        let nftables = self.remove_from_nftables(owner, hints);
        let chains = Iptables::masquerade_chains(owner);
        let iptables = self.in_iptables("nat", &chains, |tools| tools.take_back_masquerade(owner));
        nftables.and(iptables.map(drop))
    }

    fn remove_from_nftables(&self, owner: &Owner, hints: &[IpNetwork]) -> Result<(), FilterError> {
        let addresses: Vec<_> = hints.iter().map(IpNetwork::ip).collect();
        self.in_nftables(|nft| nft.remove_masquerade(owner, &addresses))
    }

    /// Removes the masquerading of owners of `network` that are not in `valid`.
    pub fn retain_masquerade(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), FilterError> {
        let nftables = self.in_nftables(|nft| nft.retain_masquerade(network, valid));
        let iptables = self.in_iptables_of_all("nat", |tools| tools.retain_masquerade(network, valid));
        nftables.and(iptables.map(drop))
    }
}
