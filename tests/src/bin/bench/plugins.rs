//! ADD and DEL of single plugins, each on what it needs and no more. What is timed is the plugin's process, and that of the IPAM
//! plugin that it calls.

use std::time::Duration;

use cni_tests::{Netns, Sandbox, conf};
use serde_json::{Value, json};

use crate::contestant::Contestant;
use crate::statistics::{Sample, ms, ratio, row};
use crate::turns::{Players, Turns};
use crate::{Common, VERSION};

/// A plugin that is measured: a row of the table.
struct Subject {
    plugin: &'static str,
    /// What is there before an ADD; not timed, and done anew each time.
    prepare: fn(&Netns, &Netns),
    /// The keys of its configuration, for a container's namespace.
    keys: fn(&str) -> Value,
}

/// All of them. What a plugin needs may be what the kernel lacks: then its row says why.
const SUBJECTS: [Subject; 9] = [
    Subject {
        plugin: "loopback",
        prepare: |_, guest| {
            guest.sh(&["ip", "link", "set", "lo", "down"]);
        },
        keys: |_| json!({}),
    },
    Subject { plugin: "static", prepare: |_, _| {}, keys: |_| json!({"ipam": static_address()}) },
    Subject { plugin: "ptp", prepare: |_, _| {}, keys: |_| json!({"ipam": static_address()}) },
    Subject { plugin: "macvlan", prepare: device, keys: |_| json!({"master": "dev0", "ipam": static_address()}) },
    Subject { plugin: "host-device", prepare: device, keys: |_| json!({"device": "dev0", "ipam": static_address()}) },
    Subject { plugin: "tap", prepare: |_, _| {}, keys: |_| json!({"ipam": static_address()}) },
    Subject {
        plugin: "tuning",
        prepare: pair,
        keys: |netns| json!({"mtu": 1400, "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}, "prevResult": previous(netns)}),
    },
    Subject {
        plugin: "bandwidth",
        prepare: pair,
        keys: |netns| {
            json!({
                "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000,
                "prevResult": previous(netns)
            })
        },
    },
    Subject { plugin: "sbr", prepare: pair, keys: |netns| json!({"prevResult": previous(netns)}) },
];

/// The times of ADD and DEL; `None` from a contestant that has no such plugin.
type Round = Option<(Duration, Duration)>;

pub(crate) fn run(common: &Common, only: &[String]) {
    let contestants = &common.contestants;
    let heads: Vec<String> = contestants.iter().map(Contestant::label).collect();
    let mut players = Players::start(contestants, play);
    println!("single plugins at {VERSION}: medians of {} interleaved rounds, milliseconds", common.rounds);
    println!("(in brackets: how many times faster than the first)\n");
    row("", &heads, &heads);
    for (index, subject) in SUBJECTS.iter().enumerate() {
        if !only.is_empty() && !only.iter().any(|name| name == subject.plugin) {
            continue;
        }
        // The first one fills caches and makes what all attachments share.
        players.once(&index);
        let times = players.rounds(common.rounds, &index);
        let add = |times: &(Duration, Duration)| times.0;
        let del = |times: &(Duration, Duration)| times.1;
        row(&format!("{:<12}ADD", subject.plugin), &heads, &cells(&times, add));
        row(&format!("{:<12}DEL", subject.plugin), &heads, &cells(&times, del));
    }
}

fn cells(times: &[Vec<Round>], of: fn(&(Duration, Duration)) -> Duration) -> Vec<String> {
    let samples: Vec<Sample> = times.iter().map(|rounds| rounds.iter().flatten().map(of).collect()).collect();
    let first = samples.first().filter(|first| !first.is_empty()).map(Sample::median);
    let cell = |(at, sample): (usize, &Sample)| match first {
        _ if sample.is_empty() => "-".to_owned(),
        Some(first) if at > 0 => format!("{:.1} ({:.1})", ms(sample.median()), ratio(first, sample.median())),
        _ => format!("{:.1}", ms(sample.median())),
    };
    samples.iter().enumerate().map(cell).collect()
}

fn play(sandbox: &Sandbox, who: &Contestant, turns: &Turns<usize, Round>) {
    let (node, guest) = (sandbox.node(), sandbox.container("guest"));
    let mut number = 0;
    turns.serve(|index| {
        let Subject { plugin, prepare, keys } = &SUBJECTS[index];
        sandbox.has(plugin).then(|| {
            prepare(&node, &guest);
            number += 1;
            let (id, netns) = (format!("guest{number}"), guest.path());
            let mut conf = keys(&netns);
            conf["type"] = (*plugin).into();
            let mut conf = conf::named(VERSION, conf);
            let (added, result) = who.call("ADD", &conf, &id, &netns);
            conf["prevResult"] = serde_json::from_slice(&result).unwrap_or_else(|e| panic!("{}: {e}", who.label()));
            (added, who.call("DEL", &conf, &id, &netns).0)
        })
    });
}

fn static_address() -> Value {
    json!({"type": "static", "addresses": [{"address": "10.88.0.5/24", "gateway": "10.88.0.1"}]})
}

/// A fresh device of the node, up, that can be a master or be moved.
fn device(node: &Netns, _: &Netns) {
    let _ = node.holds(&["ip", "link", "del", "dev0"]);
    node.sh(&["ip", "link", "add", "dev0", "type", "veth", "peer", "name", "dev1"]);
    node.sh(&["ip", "link", "set", "dev0", "up"]);
    node.sh(&["ip", "link", "set", "dev1", "up"]);
}

/// A fresh pair, as a plugin before this one makes it: `host0` on the node, `eth0` with address and default route in the container.
fn pair(node: &Netns, guest: &Netns) {
    let _ = node.holds(&["ip", "link", "del", "host0"]);
    let pair = ["ip", "link", "add", "host0", "type", "veth", "peer", "name", "eth0", "netns", &guest.name];
    node.sh(&pair);
    node.sh(&["ip", "link", "set", "host0", "up"]);
    guest.sh(&["ip", "address", "add", "10.88.0.5/24", "dev", "eth0"]);
    guest.sh(&["ip", "link", "set", "eth0", "up"]);
    guest.sh(&["ip", "route", "add", "default", "via", "10.88.0.1"]);
}

/// The result of the plugin that made [`pair`].
fn previous(netns: &str) -> Value {
    json!({
        "cniVersion": VERSION, "interfaces": [{"name": "host0"}, {"name": "eth0", "sandbox": netns}],
        "ips": [{"address": "10.88.0.5/24", "gateway": "10.88.0.1", "interface": 1}]
    })
}
