//! One door to all of them: what is added goes to who was chosen, what is taken away is taken from wherever it is.

use std::rc::Rc;

use cni_netfilter::{Attachments, Backend, FilterError, Forwarding, Netfilter, Purpose};
use cni_plugin::{Difference, NetworkName, Owner, Undo};

use crate::firewalld::{Firewalld, FirewalldError};

/// Why nobody lets the traffic through.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// firewalld was asked for, or refused.
    #[error(transparent)]
    Firewalld(#[from] FirewalldError),
    /// The kernel's packet filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
}

/// Who is to let the traffic through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// firewalld where it runs, else what the node has.
    Any,
    /// firewalld.
    Firewalld,
    /// The kernel's packet filter.
    Filter(Backend),
}

/// As configurations name it. Every other name is for the node to decide, as in the Go plugin; Podman writes an empty one.
impl From<&str> for Who {
    fn from(name: &str) -> Self {
        match name {
            "firewalld" => Self::Firewalld,
            other => other.parse().map_or(Self::Any, Self::Filter),
        }
    }
}

/// The firewall of the network namespace that the calling thread is in.
///
/// firewalld has no place for owners, and can't accept what others drop. So beside it the packet filter gets the same
/// addresses: that is where [`Firewall::remove`] and [`Firewall::retain`] find them by owner, and where Docker's chain lets
/// them through.
pub struct Firewall {
    who: Who,
    zone: String,
    filter: Rc<Netfilter>,
}

impl Firewall {
    /// Opens nothing yet. `zone` is firewalld's.
    pub fn new(who: Who, zone: &str) -> Self {
        Self { who, zone: zone.to_owned(), filter: Rc::default() }
    }

    /// Lets the attachment's traffic through, keeps its bridge's policy, and pushes the reverse to `undo`. Idempotent.
    /// Without addresses nothing is started, opened or changed.
    ///
    /// # Errors
    /// If who was asked for isn't there, or refuses.
    pub fn add(&self, wanted: &Forwarding, undo: &mut Undo) -> Result<(), FirewallError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let (firewalld, backend) = self.choose(Some(wanted))?;
        self.filter.forward(backend, wanted, undo)?;
        if let Some(firewalld) = firewalld.map(Rc::new) {
            let (taken_back, addresses) = (Rc::clone(&firewalld), wanted.addresses.clone());
            undo.push("the sources of firewalld's zone", move || taken_back.remove(&addresses));
            firewalld.add(&wanted.addresses)?;
        }
        Ok(())
    }

    /// What of [`Firewall::add`] isn't there, and whoever drops it in spite of that. Changes nothing.
    ///
    /// # Errors
    /// Only if it can't be told.
    pub fn check(&self, wanted: &Forwarding, attached: &dyn Attachments) -> Result<Vec<Difference>, FirewallError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let (firewalld, backend) = self.choose(Some(wanted))?;
        let mut differences = self.filter.check_forwarding(backend, wanted, attached)?;
        if let Some(firewalld) = firewalld {
            differences.extend(firewalld.check(&wanted.addresses)?);
        }
        Ok(differences)
    }

    /// Removes what the owner has, wherever it is, and what the Go plugin made for the addresses of `hint`, unless they are
    /// another owner's by now. Without a hint everything is searched. Idempotent.
    ///
    /// # Errors
    /// If something that is there can't be removed.
    pub fn remove(&self, owner: &Owner, hint: Option<&Forwarding>) -> Result<(), FirewallError> {
        let removed = self.filter.remove_forwarding(owner, hint);
        if let Some(firewalld) = self.running()? {
            firewalld.remove(removed.as_deref().unwrap_or_default())?;
            // What the Go plugin added is nobody's.
            let hinted = hint.map(|hint| hint.addresses.as_slice()).unwrap_or_default();
            firewalld.remove(&self.filter.unowned(hinted)?)?;
        }
        Ok(removed.map(drop)?)
    }

    /// Removes what owners of `network` that are not in `valid` have, wherever it is.
    ///
    /// # Errors
    /// If something that is there can't be removed.
    pub fn retain(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), FirewallError> {
        let removed = self.filter.retain_forwarding(network, valid)?;
        match self.running()? {
            Some(firewalld) if !removed.is_empty() => Ok(firewalld.remove(&removed)?),
            _ => Ok(()),
        }
    }

    /// The chains of others that drop what is let through here.
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

    /// As the Go plugin chooses: firewalld where it runs, else iptables, else nftables.
    fn choose(&self, wanted: Option<&Forwarding>) -> Result<(Option<Firewalld>, Backend), FirewallError> {
        let firewalld = match self.who {
            Who::Filter(backend) => return Ok((None, backend)),
            Who::Firewalld => Some(Firewalld::find(&self.zone)?),
            Who::Any => self.running()?,
        };
        let networks = wanted.map(Forwarding::networks).unwrap_or_default();
        let backend = match firewalld {
            Some(_) => self.filter.beside_firewalld()?,
            None => self.filter.choose(None, Purpose::Forwarding, &networks)?,
        };
        Ok((firewalld, backend))
    }

    /// firewalld where it runs. For those who take away: where it doesn't, nothing of it is left to be taken.
    ///
    /// # Errors
    /// If that can't be known.
    fn running(&self) -> Result<Option<Firewalld>, FirewallError> {
        if let Who::Filter(_) = self.who {
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
    fn an_unknown_name_is_for_the_node_to_decide() {
        for name in ["", "pf", "IPTABLES"] {
            assert_eq!(Who::from(name), Who::Any);
        }
        assert_eq!(Who::from("firewalld"), Who::Firewalld);
        assert_eq!(Who::from("nftables"), Who::Filter(Backend::Nftables));
    }
}
