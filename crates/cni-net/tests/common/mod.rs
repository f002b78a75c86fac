//! Tests that touch the kernel, in private namespaces. What the library did is looked at with iproute2, not the library.
#![allow(dead_code)] // Each test file uses its share of this.

use std::path::Path;
use std::process::Command;

use cni_net::{Bridge, LinkSpec, NetNs, Netlink, VethEnd, VethSpec};
use serde_json::Value;

/// Declares tests that run in private namespaces.
#[macro_export]
macro_rules! private_tests {
    ($($(#[$meta:meta])* fn $name:ident() $body:block)*) => {
        $(#[test] $(#[$meta])* fn $name() { cni_testing::private::run(stringify!($name), || $body); })*
    };
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
    netlink.create_link(&LinkSpec::new(name.parse().unwrap(), &Bridge { vlan_filtering: false })).unwrap().index
}

/// A pair with the kernel's choice of everything but the names.
pub(crate) fn veth<'a>(host: &str, peer: &str, blue: &'a NetNs) -> VethSpec<'a> {
    VethSpec::new(VethEnd::named(host.parse().unwrap()), VethEnd::named(peer.parse().unwrap()), blue)
}
