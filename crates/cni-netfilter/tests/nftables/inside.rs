//! Private namespaces for a test, and the tools to look with.

use std::process::Command;

use cni_netfilter::{MarkChain, Masquerade, PortForward, PortForwards, Snat};
use cni_plugin::{Owner, Protocol};
use serde_json::Value;

/// Runs `body` in a process of its own, in private namespaces.
pub(crate) use cni_testing::private::run as inside;

/// Runs a shell command that must succeed.
pub(crate) fn run(command: &str) {
    cni_testing::private::sh(command);
}

/// The output of a shell command, whether it succeeds or not.
pub(crate) fn output(command: &str) -> String {
    let found = Command::new("sh").args(["-c", command]).output().unwrap();
    String::from_utf8_lossy(&found.stdout).into_owned()
}

/// The whole rule set in the nft language, without handles.
pub(crate) fn ruleset() -> String {
    output("nft list ruleset")
}

/// The whole rule set with all handles: equal only if nothing was made anew.
pub(crate) fn handles() -> String {
    output("nft -a list ruleset")
}

/// Like `unwrap`, and says what it was.
pub(crate) trait Attempt {
    fn attempt(self, what: &str);
}

impl<T, E: std::fmt::Display> Attempt for Result<T, E> {
    fn attempt(self, what: &str) {
        if let Err(error) = self {
            panic!("{what}: {error}");
        }
    }
}

/// The elements of a set as `nft -j` lists them.
pub(crate) fn elements(table: &str, set: &str) -> Vec<Value> {
    let text = output(&format!("nft -j list set {table} {set} 2>/dev/null || nft -j list map {table} {set}"));
    let Ok(list) = serde_json::from_str::<Value>(&text) else { return Vec::new() };
    let objects = list["nftables"].as_array().unwrap();
    let set = objects.iter().find_map(|object| object.get("map").or(object.get("set")));
    set.and_then(|set| set["elem"].as_array()).cloned().unwrap_or_default()
}

pub(crate) fn owner(id: &str) -> Owner {
    owner_in("net1", id)
}

pub(crate) fn owner_in(network: &str, id: &str) -> Owner {
    Owner { network: network.parse().unwrap(), container_id: id.parse().unwrap(), ifname: "eth0".parse().unwrap() }
}

pub(crate) fn masquerade(id: &str, address: &str, subnet: &str) -> Masquerade {
    Masquerade { owner: owner(id), address: address.parse().unwrap(), subnet: subnet.parse().unwrap(), to: None }
}

/// `forwards("c1", "10.1.0.2/24", &["tcp 8080 80", "udp 10.0.0.1:53 53"])`, with [`Snat::Local`].
pub(crate) fn forwards(id: &str, container: &str, ports: &[&str]) -> PortForwards {
    let container: ipnetwork::IpNetwork = container.parse().unwrap();
    let ports = ports.iter().map(|text| port(text, container.ip())).collect();
    PortForwards {
        owner: owner(id),
        container,
        ports,
        shares: std::collections::BTreeMap::new(),
        snat: Snat::Local,
        mark: MarkChain::Bit(13),
        conditions: Vec::new(),
        exclude: Vec::new(),
        guard_localnet: false,
        link: None,
    }
}

fn port(text: &str, container: std::net::IpAddr) -> PortForward {
    let parts: Vec<&str> = text.split(' ').collect();
    let protocol = match parts[0] {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => Protocol::Sctp,
    };
    let (host_ip, host_port) = match parts[1].rsplit_once(':') {
        None => (None, parts[1]),
        Some((address, port)) => (Some(address.trim_matches(['[', ']']).parse().unwrap()), port),
    };
    PortForward {
        protocol,
        host_ip,
        host_port: host_port.parse().unwrap(),
        to: (container, parts[2].parse().unwrap()).into(),
    }
}

/// The same ports, shared under a name.
pub(crate) fn shared(name: &str, forwards: PortForwards) -> PortForwards {
    let shares = forwards.ports.iter().map(|port| (*port, name.to_owned())).collect();
    PortForwards { shares, ..forwards }
}

/// What `c1` publishes on the `n`th of its networks.
pub(crate) fn on_network(n: u8, ports: &[&str], conditions: &[&str]) -> [PortForwards; 1] {
    let conditions = conditions.iter().map(|&condition| condition.to_owned()).collect();
    let owner = owner_in(&format!("net{n}"), "c1");
    [PortForwards { owner, conditions, ..forwards("c1", &format!("10.{n}.0.2/24"), ports) }]
}

/// How many ports are published on all IPv4 addresses.
pub(crate) fn port_count() -> usize {
    elements("ip cni_ports", "ports").len()
}
