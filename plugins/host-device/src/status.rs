//! STATUS: fails if an ADD would fail now, and only then.

use cni_attach::ipam;
use cni_net::Netlink;
use cni_plugin::{CniError, Request};

use crate::config::Config;
use crate::device;
use crate::saved;
use crate::settings::{Settings, SettingsError};

/// Asks the configuration, the node for the device, and IPAM.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let ipam = ipam::configured(request, &request.config.ipam)?;
    saved::probe().map_err(|error| CniError::from(error).unavailable())?;
    match Settings::resolve(&request.config) {
        // The runtime says with each ADD which device it is.
        Err(SettingsError::NoDevice) if request.config.capabilities.device_id => {}
        settings => {
            let found = device::find(&settings?, &Netlink::open()?, saved::held_by);
            found.map_err(|error| CniError::from(error).unavailable())?;
        }
    }
    ipam.map_or(Ok(()), |ipam| ipam.status())
}
