//! A node that is upgraded under running containers, or rolled back, for the plugins that are neither bridge nor firewall: what the
//! Go plugins attached is checked and deleted by those under test, and the other way round.
//!
//! Not dhcp: each implementation's plugin speaks to its own daemon only.

use std::path::Path;

use cni_tests::kernel::link_names;
use cni_tests::plugins::{MASTER, minimal, prepare};
use cni_tests::{Attachment, Chain, Sandbox, Snapshot, verdict};
use serde_json::json;

use crate::case::{Case, common, improved};

/// Debian's package `containernetworking-plugins`.
const GO: &str = "/usr/lib/cni";
/// What the address allocators keep, and what a bridge leaves for the next container.
const SHARED: [&str; 3] = ["last_reserved_ip", "/networks/.host-local", "/lock"];
/// Plugins that make an interface, or move one.
const INTERFACE: [&str; 6] = ["macvlan", "ipvlan", "vlan", "dummy", "host-device", "tap"];
/// Plugins that change that of the bridge before them.
const CHAINED: [&str; 3] = ["bandwidth", "sbr", "vrf"];

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let of = |plugin: &'static str| {
        [
            improved(format!("{plugin}::from_go"), move |sb| from_go(sb, plugin)),
            common(format!("{plugin}::back_to_go"), move |sb| back_to_go(sb, plugin)),
        ]
    };
    INTERFACE.into_iter().chain(CHAINED).flat_map(of).collect()
}

/// The Go plugins on the same node.
fn go(sb: &Sandbox, plugin: &str) -> Sandbox {
    let go = sb.with_plugins(Path::new(GO));
    if let Some(none) = [plugin, "bridge", "host-local"].iter().find(|name| !go.has(name)) {
        verdict::skip(format!("no {none} in {GO}"));
    }
    prepare(sb, plugin);
    go
}

fn chain(plugin: &str) -> Chain {
    let mut own = minimal(plugin, "1.0.0");
    own.as_object_mut().unwrap().retain(|key, _| !["prevResult", "name", "cniVersion"].contains(&key.as_str()));
    if plugin == "bandwidth" {
        for (rate, burst) in [("ingressRate", "ingressBurst"), ("egressRate", "egressBurst")] {
            (own[rate], own[burst]) = (8_000_000.into(), 800_000.into());
        }
    }
    let ipam = json!({"type": "host-local", "subnet": "10.1.2.0/24"});
    let bridge = json!({"type": "bridge", "bridge": "br-test", "isGateway": true, "ipam": ipam});
    let before = CHAINED.contains(&plugin).then_some(bridge);
    Chain::new("testnet", "1.0.0", &before.into_iter().chain([own]).collect::<Vec<_>>())
}

/// What one implementation attached, the other deletes, and node and container are as they were.
fn handed_over(sb: &Sandbox, plugin: &str, from: &Sandbox, to: &Sandbox) {
    let (chain, ns) = (chain(plugin), sb.container("c1"));
    let mut at = Attachment::new("c1", &ns);
    for plugins in [from, to] {
        chain.add(plugins, &mut at);
        chain.del(plugins, &at);
    }
    ns.sh(&["sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=0"]);
    let before = Snapshot::of(&[&sb.node(), &ns]);
    chain.add(from, &mut at);
    // Its own: CHECK of Go's bridge fails beside sbr, as its routes have left the main table.
    chain.call(to, "CHECK", chain.plugins().last().unwrap(), &at, at.result.as_ref()).run().silent();
    chain.del(to, &at);
    let mut shared = SHARED.to_vec();
    if plugin == "host-device" {
        // Go's keeps a device's name as its alias, and doesn't know the mark and the file of the plugin under test.
        shared.extend(["/run/cni/host-device/", "node: link ifname=\"up9\""]);
        assert!(link_names(&sb.node()).contains(&MASTER.to_owned()));
    }
    Snapshot::of(&[&sb.node(), &ns]).same_but(&before, &shared);
}

fn from_go(sb: &Sandbox, plugin: &str) {
    handed_over(sb, plugin, &go(sb, plugin), sb);
}

fn back_to_go(sb: &Sandbox, plugin: &str) {
    handed_over(sb, plugin, sb, &go(sb, plugin));
}
