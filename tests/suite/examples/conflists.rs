//! Every file in conf-examples/ is a story that works, shown with packets, and leaves nothing.

use std::fs;

use cni_tests::dhcp::Processes;
use cni_tests::kernel::{addresses, default_routes, has_flag, link, sysctl};
use cni_tests::packets::{Outside, Proto, Server, ask, at, ping, silent};
use cni_tests::{Attachment, Chain, Outcome, Sandbox, rules};

use super::{between, chain_of, folder, links, networks, other_host};
use crate::case::{Basis, Case, common, improved};

type Scenario = fn(&Sandbox, &Chain);

/// A story needs its own proof; a file without one is an error.
const STORIES: [(&str, Scenario); 30] = [
    ("10-dual-stack.conflist", dual_stack),
    ("11-dual-stack-iptables.conflist", dual_stack),
    ("12-egress-forward-drop.conflist", networks::forward_drop),
    ("13-shared-ports.conflist", networks::shared_ports),
    ("20-layer-2.conflist", layer_2),
    ("21-vlan-100.conflist", vlan),
    ("22-vlan-200.conflist", vlan_alone),
    ("30-no-gateway.conflist", no_gateway),
    ("31-gateway.conflist", networks::gateway),
    ("40-ptp.conflist", dual_stack),
    ("41-macvlan.conflist", macvlan),
    ("42-ipvlan.conflist", links::ipvlan),
    ("43-vlan.conflist", links::vlan),
    ("44-dummy.conflist", links::dummy),
    ("45-host-device.conflist", links::host_device),
    ("46-tap.conflist", links::tap),
    ("47-vrf.conflist", links::vrf),
    ("48-overlay.conflist", overlay),
    ("50-static-tuning.conflist", static_tuning),
    ("51-dhcp.conflist", links::dhcp),
    ("60-isolated-red.conflist", networks::isolated),
    ("61-isolated-blue.conflist", networks::alone),
    ("62-no-neighbours.conflist", networks::no_neighbours),
    ("70-second-network.conflist", networks::second),
    ("80-own-options.conflist", networks::own_options),
    ("90-kubernetes-node.conflist", networks::cluster_node),
    ("91-bandwidth.conflist", bandwidth),
    ("92-source-routing.conflist", source_routing),
    ("93-names.conflist", names),
    ("99-loopback.conflist", loopback),
];

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let case =
        |(file, story): &'static (&str, Scenario)| common(*file, move |sb| run(sb, file, *story)).based_on(basis(file));
    let mut cases: Vec<_> = STORIES.iter().map(case).collect();
    cases.extend(STORIES.iter().map(|(file, _)| {
        improved(format!("success_is_silent_{file}"), move |sb| {
            links::needs(sb, file);
            let mut servers = Processes::new();
            match *file {
                "45-host-device.conflist" => drop(links::storage(sb)),
                "51-dhcp.conflist" => servers.dnsmasq(&[]),
                _ => {}
            }
            silent_life(sb, &chain_of(sb, file));
        })
    }));
    for file in ["10-dual-stack.conflist", "11-dual-stack-iptables.conflist", "13-shared-ports.conflist"] {
        cases.push(improved(format!("closed_{file}"), move |sb| run(sb, file, networks::closed)));
    }
    cases.push(common("every_file_has_a_story", |_| {
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
    // Addresses, and a VLAN of a link, that only one container can have.
    let is_alone = |plugin: &serde_json::Value| plugin["ipam"]["type"] == "static" || plugin["type"] == "vlan";
    let containers =
        [("c1", 8080), ("c2", 9090)].into_iter().take(if chain.plugins().iter().any(is_alone) { 1 } else { 2 });
    let silent_alone = |call: &dyn Fn(&Chain) -> Outcome| {
        for plugin in chain.plugins().iter().filter(|_| chain.version() >= "1.1.0") {
            let outcome = call(&Chain::new(chain.name(), chain.version(), std::slice::from_ref(plugin)));
            outcome.silent();
            assert_eq!(outcome.stderr, "", "{outcome}");
        }
    };
    silent_alone(&|alone| alone.status(sb));
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
    silent_alone(&|alone| alone.gc(sb, &[("c1", "eth0"), ("c2", "eth0")]));
    attached.iter().for_each(|at| silent("DEL", at));
    attached.iter().for_each(|at| silent("DEL", at));
}

/// Where the Go plugins are known to fall short.
fn basis(file: &str) -> Basis {
    match file {
        // They don't wait until the gateway's IPv6 address can be used, and their CHECK looks for a sysctl of "IFNAME".
        // They have no hostShim.
        // They know no shared ports.
        "13-shared-ports.conflist" | "31-gateway.conflist" | "41-macvlan.conflist" | "50-static-tuning.conflist" => {
            Basis::Improved
        }
        _ => Basis::Common,
    }
}

fn run(sb: &Sandbox, file: &str, story: Scenario) {
    story(sb, &chain_of(sb, file));
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

/// Containers with addresses of the network outside, which the node reaches through its own link to them.
fn macvlan(sb: &Sandbox, chain: &Chain) {
    let outside = sb.outside();
    between(sb, chain, |[(one, at_one), (_, at_two)]| {
        for (v6, world, shim) in [(false, Outside::V4, "192.0.2.250"), (true, Outside::V6, "2001:db8:99::250")] {
            assert!(ping(one, world) && ping(&outside.ns, &at_one.ip(v6)), "outside");
            assert!(ping(one, &at_two.ip(v6)), "one to two");
            assert!(ping(one, shim) && ping(&sb.node(), &at_one.ip(v6)), "the node");
        }
    });
}

/// The node, and a host of the same network that has no CNI.
fn overlay(sb: &Sandbox, chain: &Chain) {
    let outside = sb.outside();
    other_host(&outside, "42", "10.42.2.1/16");
    between(sb, chain, |[(one, at_one), (two, at_two)]| {
        let _web = Server::start(one, "web", 80);
        let _world = Server::start(&outside.ns, "world", 7000);
        assert!(ping(&outside.ns, &at_two.ip(false)) && ping(two, "10.42.2.1") && ping(one, &at_two.ip(true)));
        assert_eq!(ask(&outside.ns, Proto::Tcp, at(&at_one.ip(false), 80)).unwrap(), "web 10.42.2.1", "in the network");
        assert_eq!(ask(one, Proto::Tcp, at(Outside::V4, 7000)).unwrap(), "world 192.0.2.1", "masqueraded");
        assert_eq!(ask(&outside.ns, Proto::Tcp, at(Outside::NODE_V4, 8080)).unwrap(), "web 192.0.2.2", "published");
        assert_eq!(link(one, "eth0").unwrap()["mtu"], 1450);
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
    sb.needs_vlan_filtering();
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
    sb.needs_vlan_filtering();
    networks::alone(sb, chain);
}

fn no_gateway(sb: &Sandbox, chain: &Chain) {
    let outside = sb.outside();
    between(sb, chain, |[(one, at_one), (two, at_two)]| {
        assert!(ping(one, &at_two.ip(false)) && ping(two, &at_one.ip(true)), "each other");
        assert!(default_routes(one, "-4").is_empty() && addresses(&sb.node(), "cni3").is_empty());
        let _world = Server::start(&outside.ns, "world", 7000);
        assert!(silent(one, Proto::Tcp, at(Outside::V4, 7000)), "no host outside");
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

fn bandwidth(sb: &Sandbox, chain: &Chain) {
    let (node, ns) = (sb.node(), sb.container("c1"));
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    assert!(ping(&ns, "10.191.0.1") && ping(&ns, "fd00:191::1") && ping(&node, &at.ip(false)));
    assert_eq!(node.sh(&["tc", "qdisc", "show"]).matches("rate 20Mbit burst 250000b").count(), 2);
    chain.check(sb, &at).silent();
    chain.del(sb, &at);
    assert!(!node.sh(&["tc", "qdisc", "show"]).contains("tbf"));
}

fn names(sb: &Sandbox, chain: &Chain) {
    let [web, client] = ["web", "client"].map(|id| (sb.container(id), id));
    let attach = |(ns, id): &(cni_tests::Netns, &str)| {
        let args = Some(format!("IgnoreUnknown=1;K8S_POD_NAME={id}"));
        let mut at = Attachment { args, ..Attachment::new(id, ns) };
        chain.add(sb, &mut at);
        at
    };
    let (at, of_client) = (attach(&web), attach(&client));
    for (name, v6) in [("web", false), ("web.named", false), ("web.dns.test", true)] {
        let kind = if v6 { "AAAA" } else { "A" };
        for server in ["@10.193.0.1", "@fd00:193::1"] {
            assert_eq!(client.0.sh(&["dig", "+short", server, name, kind]).trim(), at.ip(v6));
        }
    }
    chain.check(sb, &at).silent();
    [&at, &of_client].into_iter().for_each(|at| chain.del(sb, at));
}

/// As a container's second network.
fn source_routing(sb: &Sandbox, chain: &Chain) {
    let (node, ns) = (sb.node(), sb.container("c1"));
    let first = chain_of(sb, "10-dual-stack.conflist");
    first.add(sb, &mut Attachment::new("c1", &ns));
    let mut at = Attachment::new("c1", &ns).on("eth1");
    chain.add(sb, &mut at);
    for (v6, family, far) in [(false, "-4", "192.0.2.9"), (true, "-6", "2001:db8::9")] {
        let from = at.ip(v6);
        assert!(ns.sh(&["ip", family, "route", "get", far, "from", &from]).contains("dev eth1"));
        assert!(ns.sh(&["ip", family, "route", "get", far]).contains("dev eth0"));
        assert!(ping(&node, &from));
    }
    chain.check(sb, &at).silent();
    chain.del(sb, &at);
    assert!(!ns.sh(&["ip", "rule"]).contains("10.192."));
}

fn loopback(sb: &Sandbox, chain: &Chain) {
    let ns = sb.container("c1");
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    assert!(has_flag(&link(&ns, "lo").unwrap(), "UP") && ping(&ns, "127.0.0.1") && ping(&ns, "::1"));
    chain.check(sb, &at).silent();
    chain.del(sb, &at);
}
