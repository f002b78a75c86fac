//! STATUS: fails if an ADD would fail now, and only then.

use cni_attach::ipam;
use cni_plugin::{CniArgs, CniError, Request};

use crate::config::Config;
use crate::device;
use crate::settings::Settings;

/// Asks the configuration, the kernel for tap devices, and IPAM.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    Settings::resolve(&request.config, &CniArgs::default())?;
    let ipam = ipam::configured(request, &request.config.ipam)?;
    device::is_supported().map_err(|error| CniError::from(error).unavailable())?;
    ipam.map_or(Ok(()), |ipam| ipam.status())
}
