//! The configuration as it is written: mirrors the JSON and decides nothing.

use serde::Deserialize;

/// The keys of firewall.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// `iptables`, `nftables` or `firewalld`; anything else leaves the choice to the node.
    pub backend: String,
    /// The chain in which the administrator can overrule the accepts (iptables only).
    pub iptables_admin_chain_name: String,
    /// The zone that the containers' addresses become sources of (firewalld only).
    pub firewalld_zone: String,
    /// `open`, `same-bridge` or `isolated`; empty is open.
    pub ingress_policy: String,
    /// From elsewhere than the container's own bridge only replies and published ports pass.
    pub published_only: bool,
}
