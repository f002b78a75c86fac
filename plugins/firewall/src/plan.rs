//! The plan, as data: which packets to accept, from the settings and the previous result.

use std::net::IpAddr;

use cni_netfilter::{Forwarding, Ingress, IngressPolicy};
use cni_plugin::{CniResult, IfName, Interface, NameError, Owner};

use crate::settings::Settings;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A policy needs a bridge.
    #[error(
        "interface needs to be set for ingress policy {0:?}, make sure to chain \"firewall\" plugin with \"bridge\": the \
         first interface of prevResult has to be the bridge"
    )]
    NoBridge(String),
    /// A door is between a link of the node and the rest.
    #[error(
        "publishedOnly needs the node's link that the container is behind: the first interface of prevResult has to be a bridge, \
         or ptp's link on the node, and not in a sandbox"
    )]
    NoLink,
    /// The bridge's name can't be one.
    #[error("prevResult.interfaces[0].name: {0}")]
    BadBridge(#[from] NameError),
}

/// Every address of the previous result, whatever interface it is on, as in the Go plugin.
pub fn plan(settings: &Settings, owner: &Owner, prev: &CniResult) -> Result<Forwarding, PlanError> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for ip in &prev.ips {
        if !addresses.contains(&ip.address.ip()) {
            addresses.push(ip.address.ip());
        }
    }
    let ingress = settings.ingress.map(|policy| behind(policy, prev)).transpose()?;
    let published_only = if settings.published_only { Some(link(prev)?) } else { None };
    let admin_chain = settings.admin_chain.clone();
    Ok(Forwarding { owner: owner.clone(), addresses, admin_chain, ingress, published_only })
}

/// The node's link that the container is behind.
fn link(prev: &CniResult) -> Result<IfName, PlanError> {
    let is_on_node = |interface: &&Interface| interface.sandbox.is_empty() && !interface.name.is_empty();
    let link = prev.interfaces.first().filter(is_on_node).ok_or(PlanError::NoLink)?;
    Ok(link.name.parse()?)
}

fn behind(policy: IngressPolicy, prev: &CniResult) -> Result<Ingress, PlanError> {
    let name = prev.interfaces.first().map(|interface| interface.name.as_str()).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| PlanError::NoBridge(policy.to_string()))?;
    Ok(Ingress { bridge: name.parse()?, policy })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use cni_plugin::SpecVersion;
    use cni_testing::golden;
    use serde_json::{Value, json};

    fn planned(config: Value, prev: Value) -> Result<Forwarding, PlanError> {
        let config: Config = cni_plugin::json::decode(config).unwrap();
        let owner = Owner {
            network: "net".parse().unwrap(),
            container_id: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let prev = CniResult::from_prev(prev, SpecVersion::V1_0_0).unwrap();
        plan(&Settings::resolve(&config).unwrap(), &owner, &prev)
    }

    #[test]
    fn every_address_counts_once() {
        let prev = json!({"ips": [{"address": "10.0.0.2/24"}, {"address": "fd00::2/64"}, {"address": "10.0.0.2/16"}]});
        let plan = planned(json!({}), prev).unwrap();
        assert_eq!(plan.addresses, ["10.0.0.2".parse::<IpAddr>().unwrap(), "fd00::2".parse().unwrap()]);
        assert!(plan.ingress.is_none());
    }

    #[test]
    fn a_policy_needs_the_bridge_as_first_interface() {
        let policy = json!({"ingressPolicy": "isolated"});
        let prev = json!({"interfaces": [{"name": "br0"}, {"name": "veth1"}], "ips": [{"address": "10.0.0.2/24"}]});
        assert_eq!(planned(policy.clone(), prev).unwrap().ingress.unwrap().bridge.as_str(), "br0");
        for prev in [json!({"ips": []}), json!({"interfaces": [{"name": ""}]})] {
            assert!(matches!(planned(policy.clone(), prev), Err(PlanError::NoBridge(_))));
        }
    }

    /// In the words of the intent; the golden files of cni-netfilter have the rules for it.
    #[test]
    fn the_examples_plan_their_golden_files() {
        golden::dir(env!("CARGO_MANIFEST_DIR")).compare_examples("firewall", |example| {
            let interfaces = json!([{"name": "cni0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/run/netns/c1"}]);
            let ips = json!([{"address": "10.88.0.5/16"}, {"address": "fd00::5/64"}]);
            let backend = example.config["backend"].as_str().unwrap_or("the node's choice").to_owned();
            let wanted = planned(example.config, json!({"interfaces": interfaces, "ips": ips})).unwrap();
            format!("backend: {backend}\n{wanted}")
        });
    }
}
