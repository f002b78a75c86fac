//! Who lets the traffic through on this node.

use cni_netfilter::{Backend, FilterError, Netfilter};

use crate::firewalld::{Firewalld, FirewalldError};
use crate::settings::{Settings, Wanted};

/// Why nobody does.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// firewalld was asked for.
    #[error(transparent)]
    Firewalld(#[from] FirewalldError),
    /// The kernel's packet filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
}

/// The choice, made once a call.
#[derive(Debug)]
pub struct Chosen {
    /// firewalld, where it decides what passes.
    ///
    /// It has no place for owners, and can't accept what others drop. So the packet filter gets the same addresses: that
    /// is where DEL and GC find them by owner, and where Docker's chain lets them through.
    pub firewalld: Option<Firewalld>,
    /// The kernel's packet filter.
    pub backend: Backend,
}

/// As the Go plugin chooses: firewalld where it runs, else iptables, else nftables.
pub fn choose(settings: &Settings, filter: &Netfilter) -> Result<Chosen, BackendError> {
    let firewalld = match settings.backend {
        Wanted::Filter(backend) => return Ok(Chosen { firewalld: None, backend }),
        Wanted::Firewalld => Some(Firewalld::find(&settings.zone)?),
        Wanted::Any => Firewalld::find(&settings.zone).ok(),
    };
    let backend = if firewalld.is_some() { filter.beside_firewalld()? } else { filter.choose(None)? };
    Ok(Chosen { firewalld, backend })
}

/// firewalld for those who take away: where it doesn't run, nothing of it is left to be taken.
pub fn firewalld_to_clean(settings: &Settings) -> Option<Firewalld> {
    match settings.backend {
        Wanted::Filter(_) => None,
        Wanted::Firewalld | Wanted::Any => Firewalld::find(&settings.zone).ok(),
    }
}
