//! Tests that touch the kernel run once more as a process of their own, in network and mount namespaces of its own, so
//! that `cargo test` never changes the machine's. What the library did is looked at with iproute2, not the library.
#![allow(dead_code)] // Each test file uses its share of this.

use std::path::Path;
use std::process::Command;

use cni_net::{BridgeSpec, NetNs, Netlink, VethEnd, VethSpec};
use serde_json::Value;

/// Says that this is the inner process. It is not believed: see [`assert_private`].
const INSIDE: &str = "CNI_NET_TEST_INSIDE";

/// Declares tests that run in private namespaces.
#[macro_export]
macro_rules! private_tests {
    ($($(#[$meta:meta])* fn $name:ident() $body:block)*) => {
        $(#[test] $(#[$meta])* fn $name() { common::privately(stringify!($name), || $body); })*
    };
}

/// Runs the test called `name` again under unshare(1); in there, runs `body`.
pub(crate) fn privately(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        assert_private();
        run("mount -t tmpfs tmpfs /run");
        run("ip link set lo up");
        return body();
    }
    if std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) != 0) {
        eprintln!("{name}: skipped, for it needs root");
        return;
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(status.status.success(), "{name}:\n{}\n{}", text(&status.stdout), text(&status.stderr));
    assert!(text(&status.stdout).contains("1 passed"), "{name} did not run: {}", text(&status.stdout));
}

/// Before anything is changed: both namespaces are other ones than the parent's, which started us through unshare(1),
/// and the network is as empty as only a new namespace is.
fn assert_private() {
    let parent = std::os::unix::process::parent_id();
    for kind in ["net", "mnt"] {
        let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap();
        assert_ne!(of("thread-self"), of(&parent.to_string()), "not in a {kind} namespace of its own");
    }
    // Not as JSON: there iproute2 prints an empty object for each link that is filtered out.
    assert_eq!(run("ip -o link show up"), "", "this network namespace is in use");
}

/// Runs a command line (no quoting) and returns what it prints.
pub(crate) fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that prints JSON.
pub(crate) fn json(line: &str) -> Value {
    let text = run(line);
    // iproute2 prints nothing at all for an empty list.
    if text.trim().is_empty() { Value::Array(Vec::new()) } else { serde_json::from_str(&text).unwrap() }
}

/// The first object of a list in JSON.
pub(crate) fn first(line: &str) -> Value {
    json(line)[0].take()
}

/// Makes a named namespace, as `ip netns add` does, and opens it.
pub(crate) fn namespace(name: &str) -> NetNs {
    run(&format!("ip netns add {name}"));
    NetNs::open(Path::new(&format!("/run/netns/{name}"))).unwrap()
}

/// Creates a bridge; its index.
pub(crate) fn bridge(netlink: &Netlink, name: &str) -> u32 {
    let spec = BridgeSpec { name: name.parse().unwrap(), mtu: None, mac: None, vlan_filtering: false };
    assert!(netlink.create_bridge(&spec).unwrap());
    netlink.link_by_name(name).unwrap().unwrap().index
}

/// A pair with the kernel's choice of everything but the names.
pub(crate) fn veth<'a>(host: &str, peer: &str, blue: &'a NetNs) -> VethSpec<'a> {
    VethSpec::new(VethEnd::named(host.parse().unwrap()), VethEnd::named(peer.parse().unwrap()), blue)
}
