//! The configuration as it is written: mirrors the JSON and decides nothing.

use serde::Deserialize;

/// The plugin's keys.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The VXLAN's number.
    pub vni: Option<i64>,
    /// The UDP port; 4789 if none.
    pub port: Option<i64>,
    /// The link of the node that packets to the peers leave by; that of the default route if this and `local` are empty.
    pub dev: String,
    /// In its place: the address of the node that packets to the peers come from.
    pub local: String,
    /// The file with the peers; `/etc/cni/peers/NETWORK` if empty.
    pub peers: String,
    /// In bytes; what fits the underlay if 0.
    pub mtu: i64,
}
