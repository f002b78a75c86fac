//! STATUS: says no when an ADD would fail now, or when somebody else drops what it would accept.

use cni_netfilter::{FilterError, Netfilter};
use cni_plugin::{CniError, Request, code, verdict};

use crate::backend::{Chosen, choose};
use crate::config::Config;
use crate::settings::Settings;

/// Asks the configuration and the packet filter.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    let filter = Netfilter::new();
    let unavailable = |error: FilterError| CniError { code: code::UNAVAILABLE, ..error.into() };
    let Chosen::Filter(backend) = choose(&settings, &filter).map_err(unavailable)?;
    filter.forwarding_usable(backend).map_err(unavailable)?;
    let obstacles = filter.obstacles(backend, &[]).map_err(unavailable)?;
    verdict(&obstacles).map_err(|error| CniError { code: code::UNAVAILABLE_LIMITED, ..error })
}
