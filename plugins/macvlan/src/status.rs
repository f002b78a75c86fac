//! STATUS: fails if an ADD would fail now, and only then.

use cni_attach::{ipam, mtu, single};
use cni_net::{MacVlan, MacVlanMode};
use cni_plugin::{CniArgs, CniError, Request};

use crate::config::Config;
use crate::settings::Settings;

/// Asks the configuration, the kernel, the master and IPAM.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let config = &request.config;
    let settings = Settings::resolve(config, &CniArgs::default())?;
    let ipam = ipam::configured(request, &config.ipam)?;
    single::probe(&MacVlan::new(0, MacVlanMode::Bridge))?;
    if let Some(parent) = settings.parent.status()? {
        mtu::on_parent(config.mtu, &config.ipam, &parent)?;
    }
    ipam.map_or(Ok(()), |ipam| ipam.status())
}
