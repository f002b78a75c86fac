//! The redirection of what containers ask at port 53.
//!
//! Without a configured backend it is nftables where the kernel has it: a chain there can come before all other translations of
//! destinations, whatever programs add to iptables' chains later.

use std::rc::Rc;

use cni_plugin::{Difference, Family, NetworkName, Owner, Undo};

use super::{FilterError, Netfilter};
use crate::intent::{Backend, DnsRedirect, Purpose};
use crate::iptables::{Iptables, dns_redirect, legacy_in_use};
use crate::nftables::{ACCEPT_MARK, Nftables};

impl Netfilter {
    /// The backend to use: the configured one, else nftables, else iptables.
    pub fn choose_for_dns(&self, configured: Option<Backend>, port: u16) -> Result<Backend, FilterError> {
        if let Some(backend) = configured {
            return Ok(backend);
        }
        match self.nftables().and_then(|nft| nft.can_redirect_dns(port)) {
            Ok(()) => Ok(Backend::Nftables),
            Err(nftables) => match self.usable(Backend::Iptables, Purpose::Ports, &[]) {
                Ok(()) => Ok(Backend::Iptables),
                Err(iptables) => {
                    Err(FilterError::NoBackend { iptables: Box::new(iptables), nftables: Box::new(nftables) })
                }
            },
        }
    }

    /// Fails, naming what is missing, if port 53 can't be redirected: in the configured backend, or in any.
    pub fn can_redirect_dns(&self, configured: Option<Backend>, port: u16) -> Result<(), FilterError> {
        match configured {
            None => self.choose_for_dns(None, port).map(drop),
            Some(Backend::Nftables) => Ok(self.nftables()?.can_redirect_dns(port)?),
            Some(Backend::Iptables) => self.usable(Backend::Iptables, Purpose::Ports, &[]),
        }
    }

    /// Redirects, and accepts what is redirected in the chains `INPUT` of iptables. Idempotent; pushes the removal to `undo`.
    pub fn add_dns_redirect(
        self: &Rc<Self>,
        backend: Option<Backend>,
        wanted: &DnsRedirect,
        undo: &mut Undo,
    ) -> Result<(), FilterError> {
        let (this, owner, hint) = (Rc::clone(self), wanted.owner.clone(), wanted.clone());
        undo.push("the redirection of port 53", move || this.take_back_dns_redirect(&owner, &hint));
        if backend != Some(Backend::Iptables) {
            match self.nftables().and_then(|nft| nft.add_dns_redirect(wanted)) {
                Ok(()) => {
                    let families = Family::among(wanted.targets.iter().map(|target| target.client));
                    return Ok(dns_redirect::accept_in_legacy(&families, ACCEPT_MARK)?);
                }
                Err(error) if backend.is_some() || !error.is_absent() => return Err(error.into()),
                Err(_) => {}
            }
        }
        let tools = self.iptables_for(Purpose::Ports, wanted.targets.iter().map(|target| target.client))?;
        Ok(tools.add_dns_redirect(wanted)?)
    }

    /// What of `wanted` is missing or altered; nothing if all of it is in the other backend.
    pub fn check_dns_redirect(
        &self,
        configured: Option<Backend>,
        wanted: &DnsRedirect,
    ) -> Result<Vec<Difference>, FilterError> {
        let port = wanted.targets.first().map_or(0, |target| target.resolver.port());
        let backend = self.choose_for_dns(configured, port)?;
        let (differences, other_fits) = Self::check_both(backend, |backend| match backend {
            Backend::Iptables => Ok(Iptables::find()?.check_dns_redirect(wanted)?),
            Backend::Nftables => Ok(self.nftables()?.check_dns_redirect(wanted)?),
        })?;
        Ok(if other_fits { Vec::new() } else { differences })
    }

    /// Removes the owner's redirections in both backends. Idempotent; faster with what ADD was given.
    pub fn remove_dns_redirect(&self, owner: &Owner, hint: Option<&DnsRedirect>) -> Result<(), FilterError> {
        let nftables = self.in_nftables(|nft| nft.remove_dns_redirect(owner, hint));
        let chains = Iptables::dns_chains(owner);
        let iptables = self.in_iptables("nat", &chains, |tools| tools.remove_dns_redirect(owner, hint));
        nftables.and(iptables.map(drop))
    }

    fn take_back_dns_redirect(&self, owner: &Owner, hint: &DnsRedirect) -> Result<(), FilterError> {
        let nftables = self.in_nftables(|nft| nft.remove_dns_redirect(owner, Some(hint)));
        let chains = Iptables::dns_chains(owner);
        let iptables = self.in_iptables("nat", &chains, |tools| tools.take_back_dns_redirect(owner));
        nftables.and(iptables.map(drop))
    }

    /// Removes the redirections of owners of `network` that are not in `valid`.
    pub fn retain_dns_redirect(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), FilterError> {
        let nftables = self.in_nftables(|nft| nft.retain_dns_redirect(network, valid));
        let iptables = self.in_iptables_of_all("nat", |tools| tools.retain_dns_redirect(network, valid));
        nftables.and(iptables.map(drop))
    }

    /// Removes what accepts redirected packets in the chains `INPUT`: to be called when no owner has a redirection. Idempotent.
    pub fn remove_dns_accept(&self) -> Result<(), FilterError> {
        let nftables = self.in_nftables(Nftables::remove_dns_accept);
        // Only an ADD that used iptables, and one that found legacy tables, has made such rules by the tools.
        let in_use = self.has_chain("nat", &[dns_redirect::REDIRECTS])?
            || Family::ALL.iter().any(|family| legacy_in_use(*family, "filter"));
        let iptables = if in_use { Iptables::for_removal().remove_dns_accept() } else { Ok(()) };
        nftables.and(iptables.map_err(FilterError::from))
    }
}
