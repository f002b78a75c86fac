//! The configuration as it is written: mirrors the JSON and decides nothing.

use serde::Deserialize;

/// The keys of portmap.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// `iptables` or `nftables`; empty leaves the choice to the node.
    pub backend: String,
    /// Connections from the container's own subnet and from 127.0.0.1 get the node's address, so that replies return.
    pub snat: bool,
    /// Connections to an address of the node are translated; without, the containers' own ports are opened.
    pub nat: bool,
    /// All connections to a published port get the node's address.
    pub masq_all: bool,
    /// The bit of the packet mark that selects them (iptables only).
    pub mark_masq_bit: Option<i64>,
    /// A chain of another program that marks and masquerades instead (iptables only).
    pub external_set_mark_chain: Option<String>,
    /// Further IPv4 matches, in the backend's language.
    pub conditions_v4: Option<Vec<String>>,
    /// Further IPv6 matches, in the backend's language.
    pub conditions_v6: Option<Vec<String>>,
    /// Addresses and prefixes of the node that ports without `hostIP` are not published on. Absent: the plugin looks for some.
    #[serde(rename = "excludeHostIPs")]
    pub exclude_host_ips: Option<Vec<String>>,
    /// The name under which owners share the host ports; empty: they do not.
    pub share: String,
    /// What the runtime adds for a capability.
    pub runtime_config: RuntimeConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backend: String::new(),
            snat: true,
            nat: true,
            masq_all: false,
            mark_masq_bit: None,
            external_set_mark_chain: None,
            conditions_v4: None,
            conditions_v6: None,
            exclude_host_ips: None,
            share: String::new(),
            runtime_config: RuntimeConfig::default(),
        }
    }
}

/// `runtimeConfig`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RuntimeConfig {
    /// The ports to publish (capability `portMappings`).
    pub port_mappings: Vec<PortMapping>,
}

/// A port to publish.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PortMapping {
    /// On the host.
    pub host_port: i64,
    /// In the container.
    pub container_port: i64,
    /// How many consecutive ports, counted from both numbers; 0 and 1 are one port. As in Podman's API.
    pub range: i64,
    /// `tcp`, `udp` or `sctp`, in any letter case.
    pub protocol: String,
    /// The host address to publish on; empty or unspecified (`0.0.0.0`, `::`) is every address.
    #[serde(rename = "hostIP")]
    pub host_ip: String,
    /// In place of the plugin's `share`; absent or empty leaves that.
    pub share: String,
}
