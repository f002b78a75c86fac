//! STATUS: fails if an ADD would fail now, and only then.

use cni_attach::single;
use cni_net::Dummy;
use cni_plugin::{CniError, Request};

use crate::config::Config;
use crate::settings::Settings;

/// Asks the configuration, the kernel and IPAM.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    single::probe(&Dummy)?;
    request.ipam(&settings.ipam).status()
}
