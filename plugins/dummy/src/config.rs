//! The configuration as it is written: mirrors the JSON and decides nothing.

use cni_plugin::IpamConfig;
use serde::Deserialize;

/// The keys of a dummy network.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Where addresses come from.
    pub ipam: IpamConfig,
}
