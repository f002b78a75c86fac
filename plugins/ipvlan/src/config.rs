//! The configuration as it is written: mirrors the JSON and decides nothing.

use cni_plugin::{DnsConfig, IpamConfig};
use serde::Deserialize;

/// The keys of an ipvlan network.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// The link that the containers' links are on. If it is empty, the chain's, or that of the default route.
    pub master: String,
    /// `l2`, `l3` or `l3s`; empty is `l2`.
    pub mode: String,
    /// In bytes; 0 is the master's.
    pub mtu: i64,
    /// The master is a link of the container.
    pub link_in_container: bool,
    /// The master is made if it is absent, as a VLAN link, and deleted with the last attachment. Ours.
    pub create_master: bool,
    /// Where addresses come from; without a type, from an earlier plugin of the chain.
    pub ipam: IpamConfig,
    /// Replaces what IPAM says about name resolution.
    pub dns: DnsConfig,
}
