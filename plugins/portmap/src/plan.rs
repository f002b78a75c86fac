//! The plan, as data: one set of forwards a family, from the settings and the previous result.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use cni_netfilter::{PortForward, PortForwards};
use cni_plugin::{CniResult, Family, IpConfig, Owner};
use ipnetwork::IpNetwork;

use crate::mapping::{Mapping, in_words};
use crate::settings::Settings;

/// The forwards of each family in which the container has an address and something is published.
pub fn plan(settings: &Settings, owner: &Owner, prev: &CniResult) -> Vec<PortForwards> {
    Family::ALL.into_iter().filter_map(|family| forwards(settings, owner, prev, family)).collect()
}

fn forwards(settings: &Settings, owner: &Owner, prev: &CniResult, family: Family) -> Option<PortForwards> {
    let container = container_address(prev, owner, family)?;
    let (ports, shares) = ports(settings, container);
    let conditions = match family {
        Family::V4 => &settings.conditions_v4,
        Family::V6 => &settings.conditions_v6,
    };
    let excluded = settings.exclude.iter().flatten().filter(|net| Family::of(net.ip()) == family);
    let guard_localnet = settings.nat && family == Family::V4 && ports.iter().any(is_on_loopback);
    (!ports.is_empty()).then(|| PortForwards {
        owner: owner.clone(),
        container,
        ports,
        shares,
        snat: settings.snat,
        mark: settings.mark.clone(),
        conditions: conditions.clone(),
        exclude: excluded.copied().collect(),
        link: None,
        guard_localnet,
    })
}

/// The first address of the family that isn't known to be another interface's.
fn container_address(prev: &CniResult, owner: &Owner, family: Family) -> Option<IpNetwork> {
    let may_be_ours = |ip: &&IpConfig| {
        let interface = ip.interface.and_then(|index| prev.interfaces.get(usize::try_from(index).ok()?));
        interface.is_none_or(|found| found.name == owner.ifname.as_str() && !found.sandbox.is_empty())
    };
    prev.ips.iter().filter(|ip| Family::of(ip.address.ip()) == family).find(may_be_ours).map(|ip| ip.address)
}

/// Writes the mappings that no forward of `wanted`, their plan, has to stderr, in one line.
pub fn warn_of_unpublished(settings: &Settings, wanted: &[PortForwards]) {
    let lines: Vec<String> =
        [(Some(Family::V4), "IPv4 address"), (Some(Family::V6), "IPv6 address"), (None, "address")]
            .into_iter()
            .filter_map(|(only, lacking)| {
                let is_published =
                    |mapping: &Mapping| wanted.iter().any(|wanted| mapping.is_for(Family::of(wanted.container.ip())));
                let lost = settings.mappings.iter().filter(|mapping| mapping.family == only && !is_published(mapping));
                let ports: BTreeSet<_> = lost.flat_map(Mapping::host_ports).collect();
                (!ports.is_empty()).then(|| format!("{}: the container has no {lacking}", in_words(&ports)))
            })
            .collect();
    if !lines.is_empty() {
        eprintln!("not published: host port {}", lines.join("; "));
    }
}

/// True if it is published on an address of 127.0.0.0/8.
fn is_on_loopback(port: &PortForward) -> bool {
    port.host_ip.is_none_or(|address| address.is_loopback())
}

/// The forwards, and the names of those that are shared.
fn ports(settings: &Settings, container: IpNetwork) -> (Vec<PortForward>, BTreeMap<PortForward, String>) {
    let of_family = settings.mappings.iter().filter(|mapping| mapping.is_for(Family::of(container.ip())));
    let forward = |mapping: &Mapping, n: u16| PortForward {
        protocol: mapping.protocol,
        host_ip: mapping.host_ip,
        host_port: mapping.host_port.saturating_add(n),
        to: SocketAddr::new(container.ip(), mapping.container_port.saturating_add(n)),
    };
    let (mut ports, mut shares) = (Vec::new(), BTreeMap::new());
    for mapping in of_family {
        let of_mapping = (0..mapping.count).map(|n| forward(mapping, n));
        shares.extend(mapping.share.iter().flat_map(|name| of_mapping.clone().map(move |port| (port, name.clone()))));
        ports.extend(of_mapping);
    }
    (ports, shares)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_plugin::SpecVersion;
    use cni_testing::golden;
    use serde_json::{Value, json};

    fn owner(network: &str) -> Owner {
        Owner {
            network: network.parse().unwrap(),
            container_id: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        }
    }

    fn planned(prev: Value, mappings: &Value) -> Vec<PortForwards> {
        let config = cni_plugin::json::decode(json!({"runtimeConfig": {"portMappings": mappings}})).unwrap();
        let settings = Settings::resolve(&config).unwrap();
        plan(&settings, &owner("net"), &CniResult::from_prev(prev, SpecVersion::V1_0_0).unwrap())
    }

    fn published(plans: &[PortForwards]) -> Vec<String> {
        plans.iter().flat_map(|plan| &plan.ports).map(|port| format!("{} {}", port.host_port, port.to)).collect()
    }

    #[test]
    fn a_host_address_publishes_only_in_its_family() {
        let prev = json!({"ips": [{"address": "10.0.0.2/24"}, {"address": "fd00::2/64"}]});
        let both = planned(prev.clone(), &json!([{"hostPort": 80, "containerPort": 8080, "protocol": "tcp"}]));
        assert_eq!(published(&both), ["80 10.0.0.2:8080", "80 [fd00::2]:8080"]);
        for (host_ip, expected) in
            [("0.0.0.0", "80 10.0.0.2:8080"), ("::", "80 [fd00::2]:8080"), ("::1", "80 [fd00::2]:8080")]
        {
            let mapping = json!([{"hostPort": 80, "containerPort": 8080, "protocol": "tcp", "hostIP": host_ip}]);
            assert_eq!(published(&planned(prev.clone(), &mapping)), [expected]);
        }
    }

    #[test]
    fn addresses_of_other_interfaces_and_of_the_host_are_skipped() {
        let interfaces = json!([{"name": "eth0", "sandbox": ""}, {"name": "eth1", "sandbox": "/n"}, {"name": "eth0", "sandbox": "/n"}]);
        let ips = json!([{"address": "10.0.0.1/24", "interface": 0}, {"address": "10.0.0.3/24", "interface": 1}, {"address": "10.0.0.2/24", "interface": 2}]);
        let mapping = json!([{"hostPort": 80, "containerPort": 80, "protocol": "tcp"}]);
        assert_eq!(published(&planned(json!({"interfaces": interfaces, "ips": ips}), &mapping)), ["80 10.0.0.2:80"]);
        let out_of_range = json!({"ips": [{"address": "10.0.0.9/24", "interface": 7}]});
        assert_eq!(published(&planned(out_of_range, &mapping)), ["80 10.0.0.9:80"]);
    }

    #[test]
    fn a_range_counts_on_both_sides() {
        let mapping = json!([{"hostPort": 8000, "containerPort": 80, "range": 3, "protocol": "tcp"}]);
        let prev = json!({"ips": [{"address": "10.0.0.2/24"}]});
        assert_eq!(published(&planned(prev, &mapping)), ["8000 10.0.0.2:80", "8001 10.0.0.2:81", "8002 10.0.0.2:82"]);
    }

    #[test]
    fn without_ports_there_is_no_plan() {
        assert!(planned(json!({"ips": [{"address": "10.0.0.2/24"}]}), &json!([])).is_empty());
    }

    /// In the words of the intent; the golden files of cni-netfilter have the rules for it.
    #[test]
    fn the_examples_plan_their_golden_files() {
        let interfaces = json!([{"name": "cni0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/run/netns/c1"}]);
        let ips = json!([{"address": "10.88.0.5/16", "interface": 2}, {"address": "fd00::5/64", "interface": 2}]);
        let prev = json!({"interfaces": interfaces, "ips": ips});
        let prev = CniResult::from_prev(prev, SpecVersion::V1_0_0).unwrap();
        golden::dir(env!("CARGO_MANIFEST_DIR")).compare_examples("portmap", |example| {
            let owner = owner(example.config["name"].as_str().unwrap());
            let mut config = example.config;
            config["runtimeConfig"] = json!({"portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
                {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "192.0.2.1"},
                {"hostPort": 9000, "containerPort": 9000, "protocol": "sctp", "range": 2, "hostIP": "::"},
            ]});
            let settings = Settings::resolve(&cni_plugin::json::decode(config).unwrap()).unwrap();
            let wanted = plan(&settings, &owner, &prev);
            let backend =
                settings.backend.map_or_else(|| "the node's choice".to_owned(), |backend| backend.to_string());
            let printed: String = wanted.iter().map(ToString::to_string).collect();
            format!("backend: {backend}\n{printed}")
        });
    }
}
