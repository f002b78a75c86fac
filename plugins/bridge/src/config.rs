//! The configuration as it is written: mirrors the JSON and decides nothing.

use cni_plugin::{DnsConfig, IpamConfig};
use serde::Deserialize;

/// The keys of a bridge network. Where a key may contradict another, see [`crate::settings`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// The bridge's name; created if absent.
    pub bridge: Option<String>,
    /// The bridge gets the gateway's address, and the node forwards.
    pub is_gateway: bool,
    /// As `isGateway`, and the container's default route goes through it.
    pub is_default_gateway: bool,
    /// An address of the bridge that conflicts with the gateway's is replaced.
    pub force_address: bool,
    /// What leaves the network gets the node's address.
    pub ip_masq: bool,
    /// `iptables` or `nftables`; empty is for the node to decide.
    pub ip_masq_backend: String,
    /// `ipv4`, `ipv6` or both: the families that `ipMasq` is for. The Go plugin has no such key.
    pub ip_masq_families: Option<Vec<String>>,
    /// The addresses that packets leave the node with, at most one of each family. The Go plugin has no such key.
    pub ip_masq_to: Option<Vec<String>>,
    /// In bytes, of both ends of the veth pair and of a new bridge; 0 leaves it to the kernel.
    pub mtu: i64,
    /// A frame may leave through the port it came from.
    pub hairpin_mode: bool,
    /// The bridge receives every frame.
    pub promisc_mode: bool,
    /// The VLAN of the container's port.
    pub vlan: i64,
    /// Further VLANs of the port, tagged.
    pub vlan_trunk: Option<Vec<VlanTrunk>>,
    /// The port stays in the bridge's default VLAN too.
    pub preserve_default_vlan: bool,
    /// Frames with another source MAC than the container's are dropped.
    #[serde(rename = "macspoofchk")]
    pub mac_spoof_check: bool,
    /// Duplicate address detection in the container, and the wait for it.
    #[serde(rename = "enabledad")]
    pub enable_dad: bool,
    /// The container's interface stays down.
    pub disable_container_interface: bool,
    /// Ports that are isolated from each other exchange no frames.
    pub port_isolation: bool,
    /// A template for the name of the host's end of the pair. The Go plugin has no such key.
    pub host_interface_name: Option<String>,
    /// A bridge that has lost its last port is deleted. The Go plugin has no such key.
    pub remove_empty_bridge: bool,
    /// Where addresses come from; without a type the network is layer 2 only.
    pub ipam: IpamConfig,
    /// Replaces what IPAM says about name resolution.
    pub dns: DnsConfig,
    /// Conventions outside the specification.
    pub args: Args,
    /// What the runtime adds for a capability.
    pub runtime_config: RuntimeConfig,
}

/// A VLAN or a range of them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct VlanTrunk {
    /// The first of a range.
    #[serde(rename = "minID")]
    pub min_id: Option<i64>,
    /// The last of a range.
    #[serde(rename = "maxID")]
    pub max_id: Option<i64>,
    /// A single one.
    pub id: Option<i64>,
}

/// `args`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Args {
    /// The arguments meant for CNI plugins.
    pub cni: CniArgsConfig,
}

/// `args.cni`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CniArgsConfig {
    /// The container's hardware address.
    pub mac: String,
}

/// `runtimeConfig`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RuntimeConfig {
    /// The container's hardware address (capability `mac`).
    pub mac: String,
}
