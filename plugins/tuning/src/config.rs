//! The configuration as it is written: mirrors the JSON and decides nothing.

use std::collections::BTreeMap;

use cni_plugin::{ConfigArgs, DirectoryKey};
use serde::Deserialize;

/// The plugin's keys. The first six are those of [`Tunables`].
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// See [`Tunables::sysctl`].
    pub sysctl: BTreeMap<String, String>,
    /// See [`Tunables::mac`].
    pub mac: Option<String>,
    /// See [`Tunables::mtu`].
    pub mtu: Option<i64>,
    /// See [`Tunables::promisc`].
    pub promisc: Option<bool>,
    /// See [`Tunables::allmulti`].
    pub allmulti: Option<bool>,
    /// See [`Tunables::tx_q_len`].
    #[serde(rename = "txQLen")]
    pub tx_q_len: Option<u32>,
    /// Where the backups are.
    pub data_dir: DirectoryKey,
    /// What the runtime adds for a capability.
    pub runtime_config: RuntimeConfig,
    /// Conventions outside the specification.
    pub args: ConfigArgs<Tunables>,
}

/// What can be set, at the top and in `args.cni`; what is absent stays as it is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Tunables {
    /// Values by name: `net.ipv4.conf.IFNAME.arp_filter`.
    pub sysctl: BTreeMap<String, String>,
    /// The interface's hardware address.
    pub mac: Option<String>,
    /// In bytes; 0 leaves it.
    pub mtu: Option<i64>,
    /// It receives every frame; false leaves it.
    pub promisc: Option<bool>,
    /// It receives every multicast frame.
    pub allmulti: Option<bool>,
    /// Length of the transmit queue, in packets.
    #[serde(rename = "txQLen")]
    pub tx_q_len: Option<u32>,
}

/// `runtimeConfig`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RuntimeConfig {
    /// The interface's hardware address (capability `mac`).
    pub mac: String,
}
