//! A node with a container behind a veth pair and a host outside, for what packets meet on their way.

use std::io::Write;
use std::process::{Command, Stdio};

use cni_tests::packets::Outside;
use cni_tests::{Netns, Sandbox};

/// The container's address.
pub(crate) const CONTAINER: &str = "10.88.0.2";

/// A node that forwards.
pub(crate) struct Node {
    pub(crate) ns: Netns,
    pub(crate) container: Netns,
    pub(crate) outside: Outside,
}

impl Node {
    /// With addresses and default routes.
    pub(crate) fn start(sandbox: &Sandbox) -> Self {
        let (ns, outside, container) = (sandbox.node(), sandbox.outside(), sandbox.container("web"));
        ns.sh(&["ip", "link", "add", "veth0", "type", "veth", "peer", "name", "eth0", "netns", "web"]);
        for (at, link, address) in [(&ns, "veth0", "10.88.0.1/24"), (&container, "eth0", "10.88.0.2/24")] {
            at.sh(&["ip", "addr", "add", address, "dev", link]);
            at.sh(&["ip", "link", "set", link, "up"]);
        }
        container.sh(&["ip", "link", "set", "lo", "up"]);
        container.sh(&["ip", "route", "add", "default", "via", "10.88.0.1"]);
        outside.ns.sh(&["ip", "route", "add", "default", "via", Outside::NODE_V4]);
        ns.sh(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        Self { ns, container, outside }
    }

    /// Gives lines to a tool that must succeed.
    pub(crate) fn feed(&self, words: &[&str], lines: &str) {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::piped());
        let mut child = self.ns.run(|| command.spawn()).unwrap_or_else(|e| panic!("{}: {e}", words[0]));
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{}", words.join(" "));
    }
}
