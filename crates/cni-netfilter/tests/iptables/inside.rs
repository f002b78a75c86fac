//! Runs a test once per iptables variant, each in network and mount namespaces of its own.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use cni_netfilter::{MarkChain, Masquerade, PortForward, PortForwards, Snat};
use cni_plugin::{Owner, Protocol};
use cni_testing::private;

/// Runs `body` as the test `name` under the nft and the legacy variant. Outside of the namespaces it starts this test
/// binary again inside them; without root it does nothing.
pub(crate) fn in_either_variant(name: &str, body: impl Fn()) {
    if private::is_inside() {
        private::prepare();
        return body();
    }
    if !private::may_unshare(name) {
        return;
    }
    for variant in ["nft", "legacy"] {
        let Some(tools) = variant_tools(variant) else {
            eprintln!("{name}: skipped, no iptables-{variant}");
            continue;
        };
        let path = format!("{}:{}", tools.path().display(), env::var("PATH").unwrap_or_default());
        private::again(name, variant, Some(&path));
    }
}

/// The variant that this run is about.
pub(crate) fn variant() -> String {
    private::variant()
}

/// A folder in which the plain names run the variant's tools, and say so in [`LOG`].
fn variant_tools(variant: &str) -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    for family in ["iptables", "ip6tables"] {
        for verb in ["", "-save", "-restore"] {
            let (name, target) = (format!("{family}{verb}"), format!("/usr/sbin/{family}-{variant}{verb}"));
            if !Path::new(&target).exists() {
                return None;
            }
            let path = folder.path().join(&name);
            fs::write(&path, format!("#!/bin/sh\necho {name} >>{LOG}\nexec {target} \"$@\"\n")).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        }
    }
    Some(folder)
}

/// Where the tools of this run write down their names when they are started.
const LOG: &str = "/run/started";

/// The names of the tools that `body` starts, sorted.
pub(crate) fn started_by<T>(body: impl Fn() -> T) -> Vec<String> {
    fs::write(LOG, "").unwrap();
    body();
    let mut names: Vec<String> = fs::read_to_string(LOG).unwrap().lines().map(str::to_owned).collect();
    names.sort();
    names
}

/// Runs a command, which has to succeed, and returns what it printed.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// `iptables-save -t table` without comments, counters and names of built-in chains.
pub(crate) fn dump(family: &str, table: &str) -> String {
    let text = run(&format!("{family}-save"), &["-t", table]);
    text.lines()
        .filter(|line| line.starts_with("-A") || line.contains("CNI-"))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// True if `ip6tables -C` can tell ports apart, which the legacy variant of 1.8.9 can't: where Go asks it, ports get lost.
pub(crate) fn ip6tables_can_check() -> bool {
    run("ip6tables", &["-w", "-t", "nat", "-N", "PROBE"]);
    let probe = |verb, port| {
        let args = ["-w", "-t", "nat", verb, "PROBE", "-p", "tcp", "--dport", port, "-j", "RETURN"];
        Command::new("ip6tables").args(args).stderr(Stdio::null()).status().unwrap().success()
    };
    let can = probe("-A", "1") && !probe("-C", "2");
    run("ip6tables", &["-w", "-t", "nat", "-F", "PROBE"]);
    run("ip6tables", &["-w", "-t", "nat", "-X", "PROBE"]);
    can
}

/// The `nat` tables of both families.
pub(crate) fn dump_nat() -> String {
    format!("{}--\n{}", dump("iptables", "nat"), dump("ip6tables", "nat"))
}

pub(crate) fn owner(id: &str, ifname: &str) -> Owner {
    Owner { network: "test-net".parse().unwrap(), container_id: id.parse().unwrap(), ifname: ifname.parse().unwrap() }
}

pub(crate) fn masquerade(owner: &Owner, address: &str) -> Masquerade {
    let subnet: ipnetwork::IpNetwork = address.parse().unwrap();
    Masquerade { owner: owner.clone(), address: subnet.ip(), subnet, to: None }
}

pub(crate) fn port(protocol: Protocol, host_port: u16, to: &str) -> PortForward {
    PortForward { protocol, host_ip: None, host_port, to: to.parse().unwrap() }
}

/// Ports as portmap wants them by default.
pub(crate) fn ports(owner: &Owner, container: &str, ports: Vec<PortForward>) -> PortForwards {
    PortForwards {
        owner: owner.clone(),
        container: container.parse().unwrap(),
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

/// Runs one of the Go plugins in the namespace we are in; `None` if it isn't installed.
pub(crate) fn go(
    plugin: &str,
    command: &str,
    container: &str,
    ifname: &str,
    config: &serde_json::Value,
) -> Option<String> {
    go_with_path(None, plugin, command, container, ifname, config)
}

/// The same with another PATH.
pub(crate) fn go_with_path(
    tools: Option<&Path>,
    plugin: &str,
    command: &str,
    container: &str,
    ifname: &str,
    config: &serde_json::Value,
) -> Option<String> {
    let path = format!("/usr/lib/cni/{plugin}");
    if !Path::new(&path).exists() {
        eprintln!("skipped: no {path}");
        return None;
    }
    let input = tempfile::NamedTempFile::new().unwrap();
    fs::write(input.path(), config.to_string()).unwrap();
    let mut program = Command::new(path);
    if let Some(tools) = tools {
        program.env("PATH", tools);
    }
    let output = program
        .stdin(fs::File::open(input.path()).unwrap())
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", format!("/run/netns/{container}"))
        .env("CNI_IFNAME", ifname)
        .env("CNI_PATH", "/usr/lib/cni")
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{plugin} {command}: {stdout:.300}");
    Some(stdout)
}
