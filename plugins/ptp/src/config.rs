//! The configuration as it is written: mirrors the JSON and decides nothing.

use cni_plugin::{DnsConfig, IpamConfig};
use serde::Deserialize;

/// The keys of a point-to-point network.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// What leaves the network gets the node's address.
    pub ip_masq: bool,
    /// `iptables` or `nftables`; empty is for the node to decide.
    pub ip_masq_backend: String,
    /// In bytes, of both ends of the pair; 0 leaves it to the kernel.
    pub mtu: i64,
    /// Where addresses come from.
    pub ipam: IpamConfig,
    /// Replaces what IPAM says about name resolution.
    pub dns: DnsConfig,
}
