//! STATUS: fails if an ADD would fail now, and only then.

use cni_attach::parent::refuse_down;
use cni_attach::{ipam, mtu, single};
use cni_net::VlanLink;
use cni_plugin::{CniError, Request};

use crate::config::Config;
use crate::settings::Settings;

/// Asks the configuration, the kernel, the master and IPAM.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let config = &request.config;
    let settings = Settings::resolve(config)?;
    let ipam = ipam::configured(request, &config.ipam)?;
    single::probe(&VlanLink { parent: 0, id: settings.vlan_id })?;
    if let Some(parent) = settings.parent.status()? {
        refuse_down(&parent).map_err(|error| CniError::unavailable(error.into()))?;
        mtu::on_parent(config.mtu, &config.ipam, &parent)?;
    }
    ipam.map_or(Ok(()), |ipam| ipam.status())
}
