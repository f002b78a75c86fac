//! Private namespaces for a test, and the tools to look with.

use std::process::Command;

use cni_netfilter::{MarkChain, Masquerade, NftError, Nftables, PortForward, PortForwards, Protocol, Snat};
use cni_plugin::Owner;
use serde_json::Value;

const INSIDE: &str = "CNI_NETFILTER_TEST_INSIDE";

/// Runs `body` in a process of its own, in new network and mount namespaces with an empty /run. Without root there is
/// nothing to test, and that is said.
pub(crate) fn inside(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        assert_private();
        run("mount -t tmpfs tmpfs /run; ip link set lo up");
        body();
        return;
    }
    if output("id -u").trim() != "0" {
        eprintln!("{name}: skipped, it needs root for a network namespace");
        return;
    }
    let inner = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // Not passed on when all is well: a reader of the totals would count the test twice.
    assert!(inner.status.success(), "{name}:\n{}\n{}", text(&inner.stdout), text(&inner.stderr));
    assert!(text(&inner.stdout).contains("1 passed"), "{name} did not run: {}", text(&inner.stdout));
}

/// The variable alone is not believed: the namespaces must be other ones than those of the process that started us.
fn assert_private() {
    let parent = std::os::unix::process::parent_id();
    for kind in ["net", "mnt"] {
        let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap();
        assert_ne!(of("self"), of(&parent.to_string()), "not in a {kind} namespace of its own");
    }
}

/// Runs a shell command that must succeed.
pub(crate) fn run(command: &str) {
    let found = Command::new("sh").args(["-ec", command]).output().unwrap();
    let text = String::from_utf8_lossy(&found.stderr);
    assert!(found.status.success(), "{command}: {}{text}", String::from_utf8_lossy(&found.stdout));
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

/// With addresses that nobody else is alive with; who had them.
pub(crate) fn add_masquerade(nft: &Nftables, intents: &[Masquerade]) -> Result<Vec<String>, NftError> {
    nft.add_masquerade(intents, &|_| false).map(|holders| holders.gone)
}

pub(crate) fn masquerade(id: &str, address: &str, subnet: &str) -> Masquerade {
    Masquerade { owner: owner(id), address: address.parse().unwrap(), subnet: subnet.parse().unwrap() }
}

/// `forwards("c1", "10.1.0.2/24", &["tcp 8080 80", "udp 10.0.0.1:53 53"])`, with [`Snat::Local`].
pub(crate) fn forwards(id: &str, container: &str, ports: &[&str]) -> PortForwards {
    let container: ipnetwork::IpNetwork = container.parse().unwrap();
    let ports = ports.iter().map(|text| port(text, container.ip())).collect();
    PortForwards {
        owner: owner(id),
        container,
        ports,
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
