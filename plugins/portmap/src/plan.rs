//! What should be published, as data: one set of forwards a family, from the settings and the previous result.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use cni_netfilter::{PortForward, PortForwards, Protocol};
use cni_plugin::{CniResult, IpConfig, Owner};
use ipnetwork::IpNetwork;

use crate::settings::{Mapping, Settings};

/// The forwards of each family in which the container has an address and something is published.
pub fn plan(settings: &Settings, owner: &Owner, prev: &CniResult) -> Vec<PortForwards> {
    let family = |v4: bool| {
        let container = container_address(prev, owner, v4)?;
        let ports = ports(settings, container);
        let conditions = if v4 { &settings.conditions_v4 } else { &settings.conditions_v6 };
        let guard_localnet = v4 && ports.iter().any(is_on_loopback);
        (!ports.is_empty()).then(|| PortForwards {
            owner: owner.clone(),
            container,
            ports,
            snat: settings.snat,
            mark: settings.mark.clone(),
            conditions: conditions.clone(),
            exclude: excluded(settings, v4),
            link: None,
            guard_localnet,
        })
    };
    [true, false].into_iter().filter_map(family).collect()
}

/// The configured addresses of the family.
fn excluded(settings: &Settings, v4: bool) -> Vec<IpNetwork> {
    settings.exclude.iter().flatten().filter(|net| net.is_ipv4() == v4).copied().collect()
}

/// The first address of the family that isn't known to be another interface's.
fn container_address(prev: &CniResult, owner: &Owner, v4: bool) -> Option<IpNetwork> {
    let may_be_ours = |ip: &&IpConfig| {
        let interface = ip.interface.and_then(|index| prev.interfaces.get(usize::try_from(index).ok()?));
        interface.is_none_or(|found| found.name == owner.ifname.as_str() && !found.sandbox.is_empty())
    };
    prev.ips.iter().filter(|ip| ip.address.is_ipv4() == v4).find(may_be_ours).map(|ip| ip.address)
}

/// The mappings that no forward of `wanted`, their plan, has: on stderr, as nothing else would tell. In one line.
pub fn warn_of_unpublished(settings: &Settings, wanted: &[PortForwards]) {
    let lines: Vec<String> = [(Some(true), "IPv4 address"), (Some(false), "IPv6 address"), (None, "address")]
        .into_iter()
        .filter_map(|(only_v4, lacking)| {
            let is_published = |mapping: &Mapping| {
                wanted.iter().any(|wanted| mapping.only_v4.is_none_or(|only| only == wanted.container.is_ipv4()))
            };
            let lost = settings.mappings.iter().filter(|mapping| mapping.only_v4 == only_v4 && !is_published(mapping));
            let ports: BTreeSet<_> = lost.flat_map(Mapping::host_ports).collect();
            (!ports.is_empty()).then(|| format!("{}: the container has no {lacking}", in_words(&ports)))
        })
        .collect();
    if !lines.is_empty() {
        eprintln!("published nowhere: host port {}", lines.join("; "));
    }
}

/// A port of the node: protocol, address, number.
pub type HostPort = (Protocol, Option<IpAddr>, u16);

/// How many ranges are listed.
const LISTED: usize = 10;

/// Ports as few words: `53/udp, 8000-8099/tcp, 192.0.2.1:80/tcp`.
pub fn in_words(ports: &BTreeSet<HostPort>) -> String {
    let mut ranges: Vec<(HostPort, u16)> = Vec::new();
    for &(protocol, address, port) in ports {
        match ranges.last_mut() {
            Some(((same, on, _), last)) if (*same, *on) == (protocol, address) && last.checked_add(1) == Some(port) => {
                *last = port;
            }
            _ => ranges.push(((protocol, address, port), port)),
        }
    }
    let one = |((protocol, address, first), last): &(HostPort, u16)| {
        let from = address.map_or_else(|| first.to_string(), |address| SocketAddr::new(address, *first).to_string());
        if first == last { format!("{from}/{protocol}") } else { format!("{from}-{last}/{protocol}") }
    };
    let mut words: Vec<String> = ranges.iter().take(LISTED).map(one).collect();
    if ranges.len() > LISTED {
        words.push(format!("and {} more", ranges.len() - LISTED));
    }
    words.join(", ")
}

/// True if it is published on an address of 127.0.0.0/8.
fn is_on_loopback(port: &PortForward) -> bool {
    port.host_ip.is_none_or(|address| address.is_loopback())
}

fn ports(settings: &Settings, container: IpNetwork) -> Vec<PortForward> {
    let v4 = container.is_ipv4();
    let of_family = settings.mappings.iter().filter(|mapping| mapping.only_v4.is_none_or(|only_v4| only_v4 == v4));
    let forward = |mapping: &Mapping, n: u16| PortForward {
        protocol: mapping.protocol,
        host_ip: mapping.host_ip,
        host_port: mapping.host_port.saturating_add(n),
        to: SocketAddr::new(container.ip(), mapping.container_port.saturating_add(n)),
    };
    of_family.flat_map(|mapping| (0..mapping.count).map(move |n| forward(mapping, n))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_plugin::SpecVersion;
    use serde_json::{Value, json};

    fn planned(prev: Value, mappings: &Value) -> Vec<PortForwards> {
        let config = cni_plugin::json::decode(json!({"runtimeConfig": {"portMappings": mappings}})).unwrap();
        let settings = Settings::resolve(&config).unwrap();
        let owner = Owner {
            network: "net".parse().unwrap(),
            container_id: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        plan(&settings, &owner, &CniResult::from_prev(prev, SpecVersion::V1_0_0).unwrap())
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
    fn ports_in_a_row_are_one_word() {
        let at = |port| (Protocol::Tcp, None, port);
        let ports = (8000..8100).map(at).chain([at(80), (Protocol::Udp, "192.0.2.1".parse().ok(), 53)]).collect();
        assert_eq!(in_words(&ports), "80/tcp, 8000-8099/tcp, 192.0.2.1:53/udp");
        assert_eq!(in_words(&(0..20).map(|n| at(2 * n)).collect()).split(", ").last(), Some("and 10 more"));
        assert_eq!(in_words(&[at(65_535)].into()), "65535/tcp");
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
}
