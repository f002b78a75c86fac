//! Configurations that many cases start from.

use serde_json::{Value, json};

use crate::chain::Chain;

/// The network of the dual-stack story.
pub const V4: &str = "10.77.0.0/24";
/// Its gateway, network + 1.
pub const V4_GATEWAY: &str = "10.77.0.1";
/// The IPv6 network of the dual-stack story.
pub const V6: &str = "fd00:77::/64";
/// Its gateway, network + 1.
pub const V6_GATEWAY: &str = "fd00:77::1";

/// Which firewall tool a configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// iptables, whichever kind the node has.
    Iptables,
    /// nftables.
    Nftables,
}

impl Backend {
    /// Both, for tables of cases.
    pub const ALL: [Self; 2] = [Self::Iptables, Self::Nftables];

    /// As the configuration names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// A dual-stack bridge with gateway, default routes and host-local, without masquerade. With hairpin: where
/// `br_netfilter` hands bridged packets to the rules, a published port reaches its own container only so.
pub fn bridge() -> Value {
    json!({
        "type": "bridge", "bridge": "br-test", "isDefaultGateway": true, "hairpinMode": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": V4}], [{"subnet": V6}]]}
    })
}

/// [`bridge`] with masquerade by a backend.
pub fn masquerading(backend: Backend) -> Value {
    let mut conf = bridge();
    conf["ipMasq"] = true.into();
    conf["ipMasqBackend"] = backend.name().into();
    conf
}

/// portmap with a backend.
pub fn portmap(backend: Backend) -> Value {
    json!({"type": "portmap", "backend": backend.name(), "capabilities": {"portMappings": true}})
}

/// The main story: dual-stack bridge, masquerade, published ports.
pub fn main_story(version: &str, backend: Backend) -> Chain {
    Chain::new("story", version, &[masquerading(backend), portmap(backend)])
}

/// A plugin's configuration with name and version, for calls without a chain.
pub fn named(version: &str, mut conf: Value) -> Value {
    conf["cniVersion"] = version.into();
    conf["name"] = "testnet".into();
    conf
}

/// host-local alone, over one range set for every subnet.
pub fn host_local(version: &str, subnets: &[&str]) -> Value {
    let ranges: Vec<Value> = subnets.iter().map(|s| json!([{"subnet": s}])).collect();
    named(version, json!({"type": "host-local", "ipam": {"type": "host-local", "ranges": ranges}}))
}
