//! STATUS: says no when an ADD would fail now, or when somebody else drops what it would accept.

use cni_netfilter::{Backend, Netfilter};
use cni_plugin::{CniError, Request, code, verdict};

use crate::backend::{BackendError, Chosen, choose};
use crate::config::Config;
use crate::settings::Settings;

/// Asks the configuration and the packet filter.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    let filter = Netfilter::new();
    let backend = usable(&settings, &filter).map_err(|error| CniError { code: code::UNAVAILABLE, ..error.into() })?;
    let obstacles = filter.obstacles(backend, &[])?;
    verdict(&obstacles).map_err(|error| CniError { code: code::UNAVAILABLE_LIMITED, ..error })
}

fn usable(settings: &Settings, filter: &Netfilter) -> Result<Backend, BackendError> {
    let Chosen { firewalld, backend } = choose(settings, filter)?;
    if let Some(firewalld) = firewalld {
        firewalld.usable()?;
    }
    filter.forwarding_usable(backend)?;
    Ok(backend)
}
