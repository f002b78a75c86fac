//! STATUS: fails if an ADD would fail now, and only then.

use cni_attach::{mtu, single};
use cni_net::{IpVlan, IpVlanMode};
use cni_plugin::{CniError, Request};

use crate::config::Config;
use crate::settings::Settings;

/// Asks the configuration, the kernel, the master and IPAM. Whether the chain gives addresses where there is no IPAM plugin
/// can't be seen here.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let config = &request.config;
    let settings = Settings::resolve(config)?;
    single::probe(&IpVlan { parent: 0, mode: IpVlanMode::L2 })?;
    if let Some(parent) = settings.parent.status()? {
        mtu::on_parent(config.mtu, &config.ipam, &parent)?;
    }
    if config.ipam.plugin_type.is_empty() { Ok(()) } else { request.ipam(&config.ipam.plugin_type).status() }
}
