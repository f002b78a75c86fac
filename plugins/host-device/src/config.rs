//! The configuration as it is written: mirrors the JSON and decides nothing.

use cni_plugin::{DnsConfig, IpamConfig};
use serde::Deserialize;

/// The plugin's keys. Of the first four and `runtimeConfig.deviceID` the first that is given says which device it is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Its name.
    pub device: String,
    /// Its hardware address.
    pub hwaddr: String,
    /// Its directory below `/sys/devices`.
    pub kernelpath: String,
    /// Its address on the PCI bus.
    #[serde(rename = "pciBusID")]
    pub pci_bus_id: String,
    /// What the runtime adds for a capability.
    #[serde(rename = "runtimeConfig")]
    pub runtime_config: RuntimeConfig,
    /// What the runtime may add.
    pub capabilities: Capabilities,
    /// Where addresses come from.
    pub ipam: IpamConfig,
    /// Replaces what IPAM says about name resolution.
    pub dns: DnsConfig,
}

/// `runtimeConfig`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RuntimeConfig {
    /// A device of the PCI or the auxiliary bus, as a device plugin of Kubernetes has allocated it.
    #[serde(rename = "deviceID")]
    pub device_id: String,
}

/// `capabilities`.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// The runtime says with each ADD which device it is.
    #[serde(rename = "deviceID")]
    pub device_id: bool,
}
