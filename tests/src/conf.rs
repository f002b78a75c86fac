//! Configurations that many cases start from.

use serde_json::{Value, json};

use crate::{Chain, Sandbox};

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

/// The firewall plugin's configuration.
pub fn firewall(backend: Backend, policy: &str) -> Value {
    let mut conf = json!({"type": "firewall", "backend": backend.name(), "ingressPolicy": policy});
    if let Some(policy) = policy.strip_prefix(PUBLISHED_ONLY) {
        conf["publishedOnly"] = true.into();
        conf["ingressPolicy"] = policy.trim_start_matches(", ").into();
    }
    conf
}

/// What a policy of [`firewall`] begins with if only published ports are to be reachable; `, ` and another policy may follow.
pub const PUBLISHED_ONLY: &str = "publishedOnly";

/// The configuration for an attachment that got addresses `.n` on bridge `br0`.
pub fn firewall_alone(sb: &Sandbox, backend: Backend, policy: &str, n: u8) -> Value {
    let mut conf = named(sb.newest(&["firewall"]), firewall(backend, policy));
    conf["prevResult"] = json!({
        "cniVersion": conf["cniVersion"],
        "interfaces": [{"name": "br0"}, {"name": "veth0"}, {"name": "eth0", "sandbox": "/run/netns/c"}],
        "ips": [{"address": format!("10.9.0.{n}/24"), "interface": 2}, {"address": format!("fd00:9::{n}/64"), "interface": 2}]
    });
    conf
}
