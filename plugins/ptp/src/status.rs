//! STATUS: says no when an ADD would fail now.

use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Request};

use crate::config::Config;
use crate::settings::Settings;

/// Asks the configuration, the packet filter and IPAM.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    if settings.masquerade {
        let filter = Netfilter::new();
        let usable = filter.choose(settings.backend).and_then(|backend| filter.usable(backend));
        usable.map_err(|error| CniError::from(error).unavailable())?;
    }
    request.ipam(&settings.ipam).status()
}
