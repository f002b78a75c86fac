//! Every file in conf-examples/ is a story that works, shown with packets, and leaves nothing.

use std::fs;
use std::path::Path;

use cni_tests::kernel::{addresses, default_routes, has_flag, link, sysctl};
use cni_tests::packets::{Outside, Proto, Server, ask, at, ping, silent};
use cni_tests::{Attachment, Chain, Netns, Sandbox, Snapshot, rules};

use crate::bridge_vlan::need_filtering;
use crate::case::{Basis, Case, common, improved};
use crate::networks;

type Told = fn(&Sandbox, &Chain);

/// A story needs its own proof; a file without one is an error.
const STORIES: [(&str, Told); 17] = [
    ("10-dual-stack.conflist", dual_stack),
    ("11-dual-stack-iptables.conflist", dual_stack),
    ("12-egress-forward-drop.conflist", networks::forward_drop),
    ("20-layer-2.conflist", layer_2),
    ("21-vlan-100.conflist", vlan),
    ("22-vlan-200.conflist", vlan_alone),
    ("30-no-gateway.conflist", no_gateway),
    ("31-gateway.conflist", networks::gateway),
    ("40-ptp.conflist", dual_stack),
    ("50-static-tuning.conflist", static_tuning),
    ("60-isolated-red.conflist", networks::isolated),
    ("61-isolated-blue.conflist", networks::alone),
    ("62-no-neighbours.conflist", networks::no_neighbours),
    ("70-second-network.conflist", networks::second),
    ("80-own-options.conflist", networks::own_options),
    ("90-kubernetes-node.conflist", networks::cluster_node),
    ("99-loopback.conflist", loopback),
];

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    let case = |(file, story): &'static (&str, Told)| {
        common(format!("examples::{file}"), move |sb| told(sb, file, *story)).based_on(basis(file))
    };
    let mut cases: Vec<_> = STORIES.iter().map(case).collect();
    cases.extend(STORIES.iter().map(|(file, _)| {
        improved(format!("examples::success_is_silent_{file}"), move |sb| {
            if file.contains("vlan") {
                need_filtering(sb);
            }
            silent_life(sb, &chain_of(sb, file));
        })
    }));
    cases.push(common("examples::every_file_has_a_story", |_| {
        let mut files: Vec<_> = fs::read_dir(folder()).unwrap().map(|e| e.unwrap().file_name()).collect();
        files.sort();
        let stories: Vec<_> = STORIES.iter().map(|(file, _)| *file).collect();
        assert_eq!(files, stories);
    }));
    cases
}

/// An ordinary life, of which nothing is on stderr: the node's journal has lines only for what an operator should do.
fn silent_life(sb: &Sandbox, chain: &Chain) {
    let _outside = sb.outside();
    let is_static = chain.plugins().iter().any(|plugin| plugin["ipam"]["type"] == "static");
    let containers = [("c1", 8080), ("c2", 9090)].into_iter().take(if is_static { 1 } else { 2 });
    let attach = |(id, port)| {
        let mut at = Attachment::new(id, &sb.container(id)).publish(&[(port, 80, "tcp"), (port, 80, "udp")]);
        let mut previous = None;
        for plugin in chain.plugins() {
            let outcome = chain.call(sb, "ADD", plugin, &at, previous.as_ref()).run();
            previous = Some(outcome.result());
            assert_eq!(outcome.stderr, "", "{outcome}");
        }
        at.result = previous;
        at
    };
    let attached: Vec<Attachment> = containers.map(attach).collect();
    let silent = |verb: &str, at: &Attachment| {
        for plugin in chain.plugins().iter().rev() {
            let outcome = chain.call(sb, verb, plugin, at, at.result.as_ref()).run();
            outcome.silent();
            assert_eq!(outcome.stderr, "", "{outcome}");
        }
    };
    attached.iter().for_each(|at| silent("CHECK", at));
    if chain.version() >= "1.1.0" {
        let valid = [("c1", "eth0"), ("c2", "eth0")];
        for plugin in chain.plugins() {
            let alone = Chain::new(chain.name(), chain.version(), std::slice::from_ref(plugin));
            for outcome in [alone.status(sb), alone.gc(sb, &valid)] {
                outcome.silent();
                assert_eq!(outcome.stderr, "", "{outcome}");
            }
        }
    }
    attached.iter().for_each(|at| silent("DEL", at));
    attached.iter().for_each(|at| silent("DEL", at));
}

/// In the tree; or, on a machine without it (`hack/test-vm.sh`), where the suite is started.
fn folder() -> &'static Path {
    let here = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../conf-examples"));
    if here.is_dir() { here } else { Path::new("conf-examples") }
}

/// Where the Go plugins are known to fall short.
fn basis(file: &str) -> Basis {
    match file {
        // They don't wait until the gateway's IPv6 address can be used, and their CHECK looks for a sysctl of "IFNAME".
        "31-gateway.conflist" | "50-static-tuning.conflist" => Basis::Improved,
        _ => Basis::Common,
    }
}

fn told(sb: &Sandbox, file: &str, story: Told) {
    story(sb, &chain_of(sb, file));
}

/// A file, at its version where the plugins know it, else at the newest that they know.
pub(crate) fn chain_of(sb: &Sandbox, file: &str) -> Chain {
    let text = fs::read_to_string(folder().join(file)).unwrap();
    let chain = Chain::parse(&text);
    let newest = sb.newest(&chain.types());
    if text.contains("\"nftables\"") {
        sb.needs("portmap", "1.1.0");
    }
    if chain.version() > newest { chain.at_version(newest) } else { chain }
}

/// Two containers that came and go; at the end the node is as it was after the first ones.
pub(crate) fn between(sb: &Sandbox, chain: &Chain, story: impl Fn(&[(Netns, Attachment); 2])) {
    let mut first = Attachment::new("first", &sb.container("first")).publish(&[(1111, 80, "tcp")]);
    chain.add(sb, &mut first);
    chain.del(sb, &first);
    let before = Snapshot::of(&[&sb.node()]);
    let attached = [("c1", 8080), ("c2", 9090)].map(|(id, port)| {
        let ns = sb.container(id);
        let mut at = Attachment::new(id, &ns).publish(&[(port, 80, "tcp")]);
        chain.add(sb, &mut at);
        (ns, at)
    });
    story(&attached);
    attached.iter().for_each(|(_, at)| chain.del(sb, at));
    Snapshot::of(&[&sb.node()]).same_but(&before, &["last_reserved_ip"]);
}

fn dual_stack(sb: &Sandbox, chain: &Chain) {
    let outside = sb.outside();
    between(sb, chain, |[(one, at_one), (two, at_two)]| {
        let _web = Server::start(one, "web", 80);
        let _world = Server::start(&outside.ns, "world", 7000);
        for (v6, world, node) in [(false, Outside::V4, Outside::NODE_V4), (true, Outside::V6, Outside::NODE_V6)] {
            assert!(ping(one, &at_two.ip(v6)), "one to two");
            assert_eq!(ask(two, Proto::Tcp, at(world, 7000)).unwrap(), format!("world {node}"), "masqueraded");
            let published = ask(&outside.ns, Proto::Tcp, at(node, 8080)).unwrap();
            assert_eq!(published, format!("web {world}"), "published");
            assert!(ask(one, Proto::Tcp, at(node, 8080)).is_ok(), "hairpin");
        }
        assert!(!rules::naming(&sb.node(), &at_one.ip(false)).is_empty());
    });
}

fn layer_2(sb: &Sandbox, chain: &Chain) {
    between(sb, chain, |[(one, _), (two, _)]| {
        for (ns, address) in [(one, "172.16.0.1/24"), (two, "172.16.0.2/24")] {
            assert!(addresses(ns, "eth0").is_empty());
            ns.sh(&["ip", "addr", "add", address, "dev", "eth0"]);
        }
        assert!(ping(one, "172.16.0.2"), "the containers' own addresses reach over the bridge");
    });
}

/// Two networks in VLANs of one bridge; this one and `22-vlan-200`. Each reaches its own gateway and its own containers; no frame
/// goes from one to the other, whatever addresses a container takes.
fn vlan(sb: &Sandbox, red: &Chain) {
    need_filtering(sb);
    let blue = chain_of(sb, "22-vlan-200.conflist");
    // Its gateway and its state stay, as those of any network do.
    let mut first = Attachment::new("blue", &sb.container("blue"));
    blue.add(sb, &mut first);
    blue.del(sb, &first);
    between(sb, red, |[(one, at_one), (two, at_two)]| {
        let ns = sb.container("other");
        let mut other = Attachment::new("other", &ns);
        blue.add(sb, &mut other);
        for (v6, gateway) in [(false, "10.101.0.1"), (true, "fd00:101::1")] {
            assert!(ping(one, &at_two.ip(v6)) && ping(two, &at_one.ip(v6)), "within the VLAN");
            assert!(ping(one, gateway) && ping(&sb.node(), &at_one.ip(v6)), "and with the node");
        }
        assert!(ping(&ns, "10.102.0.1"), "the other VLAN has its own gateway");
        ns.sh(&["ip", "addr", "add", "10.101.0.200/24", "dev", "eth0"]);
        let reached = one.holds(&["ping", "-n", "-q", "-c", "1", "-w", "2", "10.101.0.200"]);
        assert!(!reached, "a red address doesn't make it red");
        two.sh(&["ip", "addr", "add", "10.101.0.201/24", "dev", "eth0"]);
        assert!(ping(one, "10.101.0.201"), "while in red it would be reached");
        for (chain, at) in [(red, at_one), (&blue, &other)] {
            chain.check(sb, at).silent();
        }
        blue.del(sb, &other);
    });
}

/// The other half of [`vlan`]: alone it is a network like any other.
fn vlan_alone(sb: &Sandbox, chain: &Chain) {
    need_filtering(sb);
    networks::alone(sb, chain);
}

fn no_gateway(sb: &Sandbox, chain: &Chain) {
    let outside = sb.outside();
    between(sb, chain, |[(one, at_one), (two, at_two)]| {
        assert!(ping(one, &at_two.ip(false)) && ping(two, &at_one.ip(true)), "each other");
        assert!(default_routes(one, "-4").is_empty() && addresses(&sb.node(), "cni3").is_empty());
        let _world = Server::start(&outside.ns, "world", 7000);
        assert!(silent(one, Proto::Tcp, at(Outside::V4, 7000)), "nobody else");
    });
}

/// One container with the configured addresses, one whose addresses and MAC the runtime gives.
fn static_tuning(sb: &Sandbox, chain: &Chain) {
    let mac = "02:00:00:00:93:03";
    let (one, two) = (sb.container("one"), sb.container("two"));
    let mut configured = Attachment::new("one", &one);
    let given = serde_json::json!(["10.93.0.3/24", "fd00:93::3/64"]);
    let mut at = Attachment::new("two", &two).with("ips", given).with("mac", mac.into());
    chain.add(sb, &mut configured);
    chain.add(sb, &mut at);
    assert_eq!(addresses(&one, "eth0"), ["10.93.0.2/24", "fd00:93::2/64"]);
    assert_eq!(addresses(&two, "eth0"), ["10.93.0.3/24", "fd00:93::3/64"]);
    let eth0 = link(&two, "eth0").unwrap();
    assert_eq!((eth0["mtu"].as_u64(), eth0["address"].as_str()), (Some(1400), Some(mac)));
    assert_eq!(sysctl(&two, "core/somaxconn").as_deref(), Some("1024"));
    assert_eq!(sysctl(&two, "ipv4/conf/eth0/arp_filter").as_deref(), Some("1"));
    assert!(ping(&one, "10.93.0.3") && ping(&one, "fd00:93::3") && ping(&two, "10.93.0.1"));
    for at in [configured, at] {
        chain.check(sb, &at).silent();
        chain.del(sb, &at);
    }
    assert!(link(&two, "eth0").is_none());
}

fn loopback(sb: &Sandbox, chain: &Chain) {
    let ns = sb.container("c1");
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    assert!(has_flag(&link(&ns, "lo").unwrap(), "UP") && ping(&ns, "127.0.0.1") && ping(&ns, "::1"));
    chain.check(sb, &at).silent();
    chain.del(sb, &at);
}
