//! vxlan: the device is there while an attachment uses it, and no longer, however a call ends.

use std::collections::BTreeSet;

use cni_tests::faults::{Fault, SHARED, at_every_call};
use cni_tests::kernel::link;
use cni_tests::packets::ping;
use cni_tests::parallel::{at_once, until};
use cni_tests::{Attachment, Chain, Netns, Sandbox, Snapshot};
use serde_json::{Value, json};

use super::{Host, PEERS, hosts, write};
use crate::case::{Case, improved};

/// The system calls of which each one fails, or is the last.
const FAULTS: [(&str, &str); 5] = [
    ("sendto", "error=ENOBUFS"),
    ("recvfrom", "error=ENOMEM"),
    ("openat", "error=EMFILE"),
    ("sendto", "signal=KILL"),
    ("openat", "signal=KILL"),
];

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        improved("last_del_removes_the_device", last),
        improved("del_needs_nothing_but_the_owner", bare_del),
        improved("gc_removes_what_is_no_longer_valid", gc),
        improved("gc_of_another_network_leaves_it", gc_of_another),
        improved("adds_and_dels_at_once", at_the_same_time),
        improved("first_adds_at_once", first_adds),
        improved("number_with_another_port_is_refused", other_port),
        improved("foreign_devices_are_refused", foreign),
        improved("full_device_is_named", full),
        improved("failed_add_takes_everything_back", rollback),
        improved("device_of_a_killed_add_is_adopted_or_removed", orphan),
    ];
    for (call, what) in FAULTS {
        let name = format!("{call}_{}", what.split('=').next_back().unwrap().to_lowercase());
        cases.push(improved(name, move |sb| faults(sb, Fault { call, what })));
    }
    cases
}

fn one(sb: &Sandbox) -> (Host, Chain) {
    let host = hosts(sb, 2).remove(0);
    let chain = host.chain(sb, &json!({}));
    (host, chain)
}

fn last(sb: &Sandbox) {
    let (host, chain) = one(sb);
    let containers = ["c1", "c2", "c3"].map(|id| host.attach(sb, &chain, id));
    for (n, container) in containers.iter().enumerate() {
        assert!(host.has_device("vxlan42"));
        host.del(sb, &chain, container);
        assert_eq!(host.has_device("vxlan42"), n < 2);
        host.del(sb, &chain, container);
    }
    assert!(host.guarded("ports").is_empty());
}

/// Without namespace, result, file, underlay, and without any key.
fn bare_del(sb: &Sandbox) {
    let (host, chain) = one(sb);
    let mut container = host.attach(sb, &chain, "c1");
    container.at.result = None;
    container.at.netns.clear();
    std::fs::remove_file(PEERS).unwrap();
    let bare = Chain::new("net", chain.version(), &[json!({"type": "vxlan", "vni": "forty-two"})]);
    host.call(sb, "DEL", &bare, &Attachment { id: "other".to_owned(), ..container.at.clone() }).silent();
    assert!(host.has_device("vxlan42"), "another owner's");
    host.call(sb, "DEL", &bare, &container.at).silent();
    assert!(!host.has_device("vxlan42") && host.guarded("ports").is_empty());
    host.call(sb, "DEL", &bare, &container.at).silent();
}

/// GC of `vxlan` alone.
fn collect(host: &Host, sb: &Sandbox, chain: &Chain, valid: &[(&str, &str)]) {
    let alone = Chain::new(chain.name(), chain.version(), &chain.plugins()[1..]);
    host.ns.run(|| alone.gc(sb, valid)).silent();
}

fn gc(sb: &Sandbox) {
    let (host, chain) = one(sb);
    let containers = ["c1", "c2"].map(|id| host.attach(sb, &chain, id));
    collect(&host, sb, &chain, &[("c1", "eth0"), ("c2", "eth0")]);
    host.check(sb, &chain, &containers[1]);
    collect(&host, sb, &chain, &[("c2", "eth0")]);
    host.check(sb, &chain, &containers[1]);
    let altnames = link(&host.ns, "vxlan42").unwrap()["altnames"].as_array().unwrap().len();
    assert_eq!(altnames, 1);
    // What a killed call left in the packet filter.
    host.ns.sh(&["nft", "add", "element", "inet", "cni_vxlan", "peers6", "{ 4789 . 2001:db8::77 }"]);
    collect(&host, sb, &chain, &[("c2", "eth0")]);
    assert!(host.guarded("peers6").is_empty());
    collect(&host, sb, &chain, &[]);
    assert!(!host.has_device("vxlan42") && host.guarded("ports").is_empty() && host.guarded("peers4").is_empty());
}

fn gc_of_another(sb: &Sandbox) {
    let (host, chain) = one(sb);
    let container = host.attach(sb, &chain, "c1");
    let other = Chain::new("other", chain.version(), chain.plugins());
    collect(&host, sb, &other, &[]);
    host.check(sb, &chain, &container);
}

fn at_the_same_time(sb: &Sandbox) {
    let (host, chain) = one(sb);
    let stays = host.attach(sb, &chain, "stays");
    at_once(6, |n| {
        for round in 0..4 {
            let container = host.attach(sb, &chain, &format!("c{n}-{round}"));
            host.check(sb, &chain, &container);
            host.del(sb, &chain, &container);
        }
    });
    host.check(sb, &chain, &stays);
    host.del(sb, &chain, &stays);
    assert!(!host.has_device("vxlan42") && host.guarded("ports").is_empty());
}

fn first_adds(sb: &Sandbox) {
    let hosts = hosts(sb, 2);
    let chains = [hosts[0].chain(sb, &json!({})), hosts[1].chain(sb, &json!({}))];
    let containers = at_once(8, |n| {
        let container = hosts[n % 2].attach(sb, &chains[n % 2], &format!("c{n}"));
        (container.ns.clone(), container.at.ip(false), container)
    });
    for (n, (ns, _, container)) in containers.iter().enumerate() {
        hosts[n % 2].check(sb, &chains[n % 2], container);
        assert!(ping(ns, &containers[(n + 1) % 8].1));
    }
    at_once(8, |n| hosts[n % 2].del(sb, &chains[n % 2], &containers[n].2));
    assert!(hosts.iter().all(|host| !host.has_device("vxlan42") && host.guarded("ports").is_empty()));
}

/// One number is one device, whichever network has it; and one bridge.
fn other_port(sb: &Sandbox) {
    let (host, chain) = one(sb);
    let container = host.attach(sb, &chain, "c1");
    let second = |bridge: &str, keys: &Value| {
        let chain = host.chain_behind(chain.version(), &json!({"bridge": bridge, "isDefaultGateway": false}), keys);
        Chain::new("second", chain.version(), chain.plugins())
    };
    let refused = host.try_attach(sb, &second("br-net", &json!({"port": 4790})), "c2").err().unwrap();
    refused.error().names(&["vni: 42", "port of vxlan42", "4790", "4789"]);
    let refused = host.try_attach(sb, &second("br-2", &json!({})), "c3").err().unwrap();
    refused.error().names(&["vni: 42", "bridge of vxlan42", "br-2", "br-net"]);
    let status = host.call(sb, "STATUS", &second("br-net", &json!({"port": 4790})), &container.at).error();
    assert_eq!(status.code, 50);
    status.names(&["vni: 42", "4790"]);
    host.check(sb, &chain, &container);
    // A second network of the same bridge shares the device.
    let shared = second("br-net", &json!({}));
    let other = host.attach(sb, &shared, "c4");
    host.del(sb, &chain, &container);
    host.check(sb, &shared, &other);
    host.del(sb, &shared, &other);
    assert!(!host.has_device("vxlan42"));
}

fn foreign(sb: &Sandbox) {
    let (host, chain) = one(sb);
    for (name, words) in [
        ("vxlan42", &["id", "42", "dstport", "8472", "dev", "eth0"][..]),
        ("flannel.42", &["id", "42", "dstport", "4789", "dev", "eth0"]),
    ] {
        host.ns.sh(&[&["ip", "link", "add", name, "type", "vxlan"], words].concat());
        let refused = host.try_attach(sb, &chain, &format!("of-{name}")).err().unwrap();
        refused.error().names(&["vni", name, "delete"]);
        collect(&host, sb, &chain, &[]);
        assert!(host.has_device(name), "GC leaves what is not the plugin's");
        host.ns.sh(&["ip", "link", "del", name]);
    }
    host.attach(sb, &chain, "c1");
}

/// The kernel has room for some 490 alternative names on a link.
fn full(sb: &Sandbox) {
    let (host, chain) = one(sb);
    let first = host.attach(sb, &chain, "c1");
    let fill = "i=0; while ip link property add dev vxlan42 altname other-$i; do i=$((i+1)); done 2>/dev/null; echo $i";
    let names: u32 = host.ns.sh(&["sh", "-c", fill]).trim().parse().unwrap();
    assert!(names > 400, "{names}");
    host.try_attach(sb, &chain, "c2").err().unwrap().error().names(&[
        "vxlan42",
        "alternative names",
        "490",
        "vni of its own",
    ]);
    host.check(sb, &chain, &first);
    host.del(sb, &chain, &first);
    assert!(!host.has_device("vxlan42"));
}

/// A result that can't be delivered: stdout is closed after all is done.
fn rollback(sb: &Sandbox) {
    let (host, chain) = one(sb);
    let ns = sb.container("c1");
    let mut at = Attachment::new("c1", &ns);
    let bridge = Chain::new("net", chain.version(), &chain.plugins()[..1]);
    host.ns.run(|| bridge.add(sb, &mut at));
    // What all networks share is there from now on.
    host.call(sb, "ADD", &chain, &at).result();
    host.call(sb, "DEL", &chain, &at).silent();
    host.ns.sh(&["ip", "link", "set", "br-net", "mtu", "1500"]);
    let port = at.result.as_ref().unwrap()["interfaces"][1]["name"].as_str().unwrap().to_owned();
    host.ns.sh(&["ip", "link", "set", &port, "mtu", "1500"]);
    ns.sh(&["ip", "link", "set", "eth0", "mtu", "1500"]);
    let before = Snapshot::of(&[&host.ns, &ns]);
    let call = chain.call(sb, "ADD", &chain.plugins()[1], &at, at.result.as_ref());
    let closed = call.under(&["sh", "-c", r#"exec "$@" >&-"#, "sh"].map(str::to_owned));
    let outcome = host.ns.run(|| closed.run());
    assert!(!outcome.ok(), "{outcome}");
    // The bridge's own MTU was set by hand, so that it does not follow.
    Snapshot::of(&[&host.ns, &ns]).same_but(&before, &["\"br-net\""]);
}

/// A device that no attachment uses, as an ADD leaves it that was killed before it wrote its mark.
fn orphan(sb: &Sandbox) {
    let (host, chain) = one(sb);
    let make_orphan = || {
        let container = host.attach(sb, &chain, "maker");
        let mark = link(&host.ns, "vxlan42").unwrap()["altnames"][0].as_str().unwrap().to_owned();
        host.ns.sh(&["ip", "link", "property", "del", "dev", "vxlan42", "altname", &mark]);
        host.ns.sh(&["ip", "link", "set", "vxlan42", "nomaster", "down"]);
        let port = container.at.result.as_ref().unwrap()["interfaces"][1]["name"].as_str().unwrap().to_owned();
        container.ns.delete();
        // The kernel deletes the pair a moment later; until then an ADD takes it for a user of the device.
        until("the pair goes with its namespace", || link(&host.ns, &port).is_none());
        container.at
    };
    let maker = make_orphan();
    host.call(sb, "DEL", &chain, &maker).silent();
    assert!(!host.has_device("vxlan42") && host.guarded("ports").is_empty(), "DEL");
    host.ns.run(|| chain.try_del(sb, &maker)).silent();
    let maker = make_orphan();
    collect(&host, sb, &chain, &[]);
    assert!(!host.has_device("vxlan42") && host.guarded("ports").is_empty(), "GC");
    host.ns.run(|| chain.try_del(sb, &maker)).silent();
    make_orphan();
    let adopter = host.attach(sb, &chain, "adopter");
    host.check(sb, &chain, &adopter);
    host.del(sb, &chain, &adopter);
    assert!(!host.has_device("vxlan42"));
}

/// A failed ADD takes everything back, and the DEL after a killed one finds all of it.
fn faults(sb: &Sandbox, fault: Fault<'_>) {
    let switch = sb.container("switch");
    switch.sh(&["ip", "link", "add", "sw", "type", "bridge"]);
    // The node itself, for `strace` must see its links.
    let node = Host { number: 1, ns: sb.node() };
    node.ns.sh(&["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "p1", "netns", "switch"]);
    node.ns.sh(&["ip", "addr", "add", "192.0.2.1/24", "dev", "eth0"]);
    node.ns.sh(&["ip", "link", "set", "eth0", "up"]);
    write("192.0.2.1\n192.0.2.2\n192.0.2.3 02:00:00:00:03:01\n");
    let chain = node.chain(sb, &json!({}));
    let ns: Netns = sb.container("c1");
    let mut at = Attachment::new("c1", &ns);
    Chain::new("net", chain.version(), &chain.plugins()[..1]).add(sb, &mut at);
    let verb = |verb: &str| chain.call(sb, verb, &chain.plugins()[1], &at, at.result.as_ref());
    let mtus = |mtu: &str| {
        let port = at.result.as_ref().unwrap()["interfaces"][1]["name"].as_str().unwrap();
        node.ns.sh(&["ip", "link", "set", port, "mtu", mtu]);
        ns.sh(&["ip", "link", "set", "eth0", "mtu", mtu]);
        node.ns.sh(&["ip", "link", "set", "br-net", "mtu", mtu]);
    };
    verb("ADD").run().result();
    verb("DEL").run().silent();
    mtus("1500");
    let places = at_every_call(sb, &ns, ("vxlan", &verb("ADD")), fault, |outcome, before| {
        let died = outcome.code.is_none_or(|code| code > 1);
        if outcome.ok() || died || outcome.stdout.contains("cannot return to network namespace") {
            verb("DEL").run().silent();
            // The pair's MTU goes with the pair.
            mtus("1500");
        }
        let shared: BTreeSet<&str> = SHARED.into_iter().chain(["disable_ipv6", "\"br-net\""]).collect();
        Snapshot::of(&[&node.ns, &ns]).same_but(before, &shared.into_iter().collect::<Vec<_>>());
        mtus("1500");
    });
    assert!(places > 1, "{places}");
}
