//! The interface to firewalld and the packet filter. Accepts are added to the chosen one and removed from both.

use std::rc::Rc;

use cni_netfilter::{Attachments, Backend, FilterError, Forwarding, Netfilter, Purpose};
use cni_plugin::{Difference, NetworkName, Owner, Undo};

use crate::firewalld::{Firewalld, FirewalldError};

/// Why the firewall could not be changed or read.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// firewalld is configured and not there, or refused.
    #[error(transparent)]
    Firewalld(#[from] FirewalldError),
    /// The kernel's packet filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
}

/// What accepts the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirewallBackend {
    /// firewalld where it runs, else what the node has.
    Any,
    /// firewalld.
    Firewalld,
    /// The kernel's packet filter.
    Filter(Backend),
}

/// The value of `backend`. Every other text leaves the choice to the node, as in the Go plugin; Podman writes an empty one.
impl From<&str> for FirewallBackend {
    fn from(name: &str) -> Self {
        match name {
            "firewalld" => Self::Firewalld,
            other => Backend::configured("backend", other).ok().flatten().map_or(Self::Any, Self::Filter),
        }
    }
}

/// The firewall of the network namespace that the calling thread is in.
///
/// firewalld has no place for owners, and can't accept what another program's chain drops. So the packet filter gets the same
/// addresses: there [`Firewall::remove`] and [`Firewall::retain`] find them by owner, and Docker's chain accepts them.
pub struct Firewall {
    backend: FirewallBackend,
    zone: String,
    filter: Rc<Netfilter>,
}

impl Firewall {
    /// Opens nothing yet. `zone` is firewalld's.
    pub fn new(backend: FirewallBackend, zone: &str) -> Self {
        Self { backend, zone: zone.to_owned(), filter: Rc::default() }
    }

    /// Accepts the attachment's traffic, keeps its bridge's policy, and pushes the removal to `undo`. Idempotent.
    /// Without addresses nothing is started, opened or changed.
    ///
    /// # Errors
    /// If the configured backend isn't there, or refuses.
    pub fn add(&self, wanted: &Forwarding, undo: &mut Undo) -> Result<(), FirewallError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let (firewalld, backend) = self.choose(Some(wanted))?;
        match wanted.door() {
            Some(door) => self.filter.add_published_only(&door, undo)?,
            // The configuration may have changed since an earlier ADD.
            None => self.filter.remove_published_only(&wanted.owner, &wanted.addresses)?,
        }
        self.filter.add_forwarding(backend, wanted, undo)?;
        if let Some(firewalld) = firewalld.map(Rc::new) {
            let (taken_back, addresses) = (Rc::clone(&firewalld), wanted.addresses.clone());
            undo.push("the sources of firewalld's zone", move || taken_back.remove(&addresses));
            firewalld.add(&wanted.addresses)?;
        }
        Ok(())
    }

    /// What of [`Firewall::add`] is missing or altered, and the chains that drop the traffic in spite of it. Changes nothing.
    ///
    /// # Errors
    /// Only if it cannot be determined.
    pub fn check(&self, wanted: &Forwarding, attached: &dyn Attachments) -> Result<Vec<Difference>, FirewallError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let (firewalld, backend) = self.choose(Some(wanted))?;
        let mut differences = self.filter.check_forwarding(backend, wanted, attached)?;
        if let Some(door) = wanted.door() {
            differences.extend(self.filter.check_published_only(&door)?);
        }
        if let Some(firewalld) = firewalld {
            differences.extend(firewalld.check(&wanted.addresses)?);
        }
        Ok(differences)
    }

    /// Removes what the owner has, in every backend, and what the Go plugin made for the addresses of `hint`, unless they are
    /// another owner's by now. Without a hint everything is searched. Idempotent.
    ///
    /// # Errors
    /// If something that is there can't be removed.
    pub fn remove(&self, owner: &Owner, hint: Option<&Forwarding>) -> Result<(), FirewallError> {
        let addresses = hint.map(|hint| hint.addresses.as_slice()).unwrap_or_default();
        let door = self.filter.remove_published_only(owner, addresses);
        let removed = self.filter.remove_forwarding(owner, hint);
        if let Some(firewalld) = self.running()? {
            firewalld.remove(removed.as_deref().unwrap_or_default())?;
            // What the Go plugin added has no owner.
            firewalld.remove(&self.filter.unowned(addresses)?)?;
        }
        removed?;
        Ok(door?)
    }

    /// Removes what owners of `network` that are not in `valid` have, in every backend.
    ///
    /// # Errors
    /// If something that is there can't be removed.
    pub fn retain(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), FirewallError> {
        let door = self.filter.retain_published_only(network, valid);
        let removed = self.filter.retain_forwarding(network, valid)?;
        match self.running()? {
            Some(firewalld) if !removed.is_empty() => firewalld.remove(&removed)?,
            _ => {}
        }
        Ok(door?)
    }

    /// The chains of other programs that drop what is accepted here.
    ///
    /// # Errors
    /// If [`Firewall::add`] would fail now, naming what is missing.
    pub fn obstacles(&self) -> Result<Vec<Difference>, FirewallError> {
        let (firewalld, backend) = self.choose(None)?;
        if let Some(firewalld) = firewalld {
            firewalld.usable()?;
        }
        self.filter.usable(backend, Purpose::Forwarding, &[])?;
        Ok(self.filter.obstacles(backend, &[])?)
    }

    /// The rules without which a policy does not hold against networks of legacy iptables, whose tables came later. The next
    /// [`Firewall::add`] with a policy adds them.
    ///
    /// # Errors
    /// If the packet filter cannot be asked.
    pub fn unheld_policies(&self) -> Result<Vec<Difference>, FirewallError> {
        Ok(self.filter.unheld_policies()?)
    }

    /// What is missing of the closed doors of owners with these keys ([`Owner::key`]).
    ///
    /// # Errors
    /// If doors cannot be closed here, naming what is missing.
    pub fn open_doors(&self, owner_keys: &[String]) -> Result<Vec<Difference>, FirewallError> {
        self.filter.can_add_published_only()?;
        if owner_keys.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.filter.check_closed_doors(owner_keys)?)
    }

    /// As the Go plugin chooses: firewalld where it runs, else iptables, else nftables.
    fn choose(&self, wanted: Option<&Forwarding>) -> Result<(Option<Firewalld>, Backend), FirewallError> {
        let firewalld = match self.backend {
            FirewallBackend::Filter(backend) => return Ok((None, backend)),
            FirewallBackend::Firewalld => Some(Firewalld::find(&self.zone)?),
            FirewallBackend::Any => self.running()?,
        };
        let networks = wanted.map(Forwarding::networks).unwrap_or_default();
        let backend = match firewalld {
            Some(_) => self.filter.beside_firewalld()?,
            None => self.filter.choose(None, Purpose::Forwarding, &networks)?,
        };
        Ok((firewalld, backend))
    }

    /// firewalld where it runs. Where it doesn't, there is nothing to be removed from it.
    ///
    /// # Errors
    /// If that cannot be determined.
    fn running(&self) -> Result<Option<Firewalld>, FirewallError> {
        if let FirewallBackend::Filter(_) = self.backend {
            return Ok(None);
        }
        match Firewalld::find(&self.zone) {
            Err(silent @ FirewalldError::Silent { .. }) => Err(silent.into()),
            found => Ok(found.ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_leaves_the_choice_to_the_node() {
        for name in ["", "pf", "IPTABLES"] {
            assert_eq!(FirewallBackend::from(name), FirewallBackend::Any);
        }
        assert_eq!(FirewallBackend::from("firewalld"), FirewallBackend::Firewalld);
        assert_eq!(FirewallBackend::from("nftables"), FirewallBackend::Filter(Backend::Nftables));
    }
}
