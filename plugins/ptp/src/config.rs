//! The configuration as it is written: mirrors the JSON and decides nothing.

use cni_plugin::{DnsConfig, IpamConfig};
use serde::Deserialize;

/// The keys of a point-to-point network.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// Packets that leave the network get the node's address.
    pub ip_masq: bool,
    /// `iptables` or `nftables`; empty is for the node to decide.
    pub ip_masq_backend: String,
    /// The addresses that packets leave the node with, at most one of each family. The Go plugin has no such key.
    pub ip_masq_to: Option<Vec<String>>,
    /// In bytes, of both ends of the pair; 0 leaves it to the kernel.
    pub mtu: i64,
    /// Where addresses come from.
    pub ipam: IpamConfig,
    /// Replaces what IPAM says about name resolution.
    pub dns: DnsConfig,
}
