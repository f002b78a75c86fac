//! STATUS: says no when an ADD would fail now.

use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Request, code};

use crate::backend::{Chosen, choose};
use crate::config::Config;
use crate::settings::Settings;

/// Asks the configuration and the packet filter.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    let filter = Netfilter::new();
    let usable = choose(&settings, &filter).and_then(|Chosen::Filter(backend)| filter.usable(backend));
    usable.map_err(|error| CniError { code: code::UNAVAILABLE, ..error.into() })
}
