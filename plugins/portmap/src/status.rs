//! STATUS: says no when an ADD with ports would fail now.

use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Request, code};

use crate::config::Config;
use crate::settings::Settings;

/// Asks the configuration and the packet filter. Which backend that is goes to stderr: stdout has no place for it.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    let filter = Netfilter::new();
    let chosen = filter.choose(settings.backend);
    let usable = chosen.and_then(|backend| filter.usable(backend, false).map(|()| backend));
    let backend = usable.map_err(|error| CniError { code: code::UNAVAILABLE, ..error.into() })?;
    eprintln!("ports are published with {backend}");
    Ok(())
}
