//! The configuration as it is written: mirrors the JSON and decides nothing.

use cni_attach::shim::ShimConfig;
use cni_plugin::{DnsConfig, IpamConfig};
use serde::Deserialize;

/// The keys of a macvlan network.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// The link that the containers' links are on. If it is empty, the chain's, or that of the default route.
    pub master: String,
    /// `bridge`, `private`, `vepa` or `passthru`; empty is `bridge`.
    pub mode: String,
    /// In bytes; 0 is the master's.
    pub mtu: i64,
    /// The container's hardware address.
    pub mac: String,
    /// The master is a link of the container.
    pub link_in_container: bool,
    /// The master is made if it is absent, as a VLAN link, and deleted with the last attachment. Ours.
    pub create_master: bool,
    /// How many broadcast packets may wait for being copied; 0 leaves it to the kernel.
    #[serde(rename = "bcqueuelen")]
    pub bc_queue_len: i64,
    /// The node gets a link of its own to the containers. Ours.
    pub host_shim: Option<ShimConfig>,
    /// Where addresses come from; without a type the network is layer 2 only.
    pub ipam: IpamConfig,
    /// Replaces what IPAM says about name resolution.
    pub dns: DnsConfig,
    /// What the runtime adds for a capability.
    pub runtime_config: RuntimeConfig,
}

/// `runtimeConfig`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RuntimeConfig {
    /// The container's hardware address (capability `mac`).
    pub mac: String,
}
