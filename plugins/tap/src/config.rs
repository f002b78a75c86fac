//! The configuration as it is written: mirrors the JSON and decides nothing.

use cni_plugin::{ConfigArgs, DnsConfig, IpamConfig};
use serde::Deserialize;

/// The plugin's keys.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// It can be opened several times, for a queue each.
    pub multi_queue: bool,
    /// In bytes; 0 leaves it to the kernel.
    pub mtu: i64,
    /// Its hardware address.
    pub mac: String,
    /// The user that may open it.
    pub owner: Option<u32>,
    /// The group that may open it.
    pub group: Option<u32>,
    /// The SELinux context that it is made in.
    pub selinux_context: String,
    /// A bridge in the container, which it becomes a port of.
    pub bridge: String,
    /// What the runtime adds for a capability.
    pub runtime_config: RuntimeConfig,
    /// Conventions outside the specification.
    pub args: ConfigArgs<RuntimeConfig>,
    /// Where addresses come from.
    pub ipam: IpamConfig,
    /// Replaces what IPAM says about name resolution.
    pub dns: DnsConfig,
}

/// `runtimeConfig`, and what `args.cni` has of the same.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RuntimeConfig {
    /// The interface's hardware address.
    pub mac: String,
}
