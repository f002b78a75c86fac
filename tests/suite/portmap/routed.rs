//! portmap's `"nat": false`: ports are published at the container's own address, and the firewall's `publishedOnly` closes the rest.

use cni_tests::conf::{self, Backend};
use cni_tests::packets::{Outside, Proto, Server, ask, at, silent};
use cni_tests::{Attachment, Chain, Netns, Sandbox, netns, rules};
use serde_json::{Value, json};

use super::{Scenario, with_each_backend};
use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let stories: [(&str, Scenario); 5] = [
        ("published_ports_are_open_and_no_others", |sb, backend| open(sb, backend, "ACCEPT")),
        ("published_ports_are_open_under_policy_drop", |sb, backend| open(sb, backend, "DROP")),
        ("published_ports_of_a_network_with_a_policy", with_policy),
        ("what_is_gone_is_named_and_mended", noticed),
        ("del_and_gc_leave_the_others", life),
    ];
    let mut cases = with_each_backend(&stories);
    cases.push(improved("what_means_nothing_is_refused", refused));
    cases.push(improved("add_with_translation_again", again));
    cases
}

/// bridge, portmap without translation, and firewall with a closed door; without masquerade.
fn network(sb: &Sandbox, backend: Backend, n: u8, policy: &str) -> Chain {
    sb.needs("firewall", "1.1.0");
    let bridge = json!({
        "type": "bridge", "bridge": format!("br-{n}"), "isDefaultGateway": true,
        "ipam": {"type": "host-local", "ranges": [
            [{"subnet": format!("10.88.{n}.0/24")}], [{"subnet": format!("fd00:88:{n}::/64")}]
        ]}
    });
    let mut portmap = conf::portmap(backend);
    portmap["nat"] = false.into();
    Chain::new(&format!("net{n}"), "1.1.0", &[bridge, portmap, conf::firewall(backend, policy)])
}

struct Container {
    ns: Netns,
    at: Attachment,
    _servers: [Server; 2],
}

/// With servers on 80, which is published, and on 81.
fn attach(sb: &Sandbox, chain: &Chain, id: &str) -> Container {
    let ns = sb.container(id);
    let mut at = Attachment::new(id, &ns).publish(&[(8080, 80, "tcp"), (8080, 80, "udp")]);
    chain.add(sb, &mut at);
    Container { _servers: [80, 81].map(|port| Server::start(&ns, id, port)), ns, at }
}

/// A host on the wire that has a route to the containers.
fn neighbour(sb: &Sandbox) -> Outside {
    let outside = sb.outside();
    outside.ns.sh(&["ip", "route", "add", "10.88.0.0/16", "via", Outside::NODE_V4]);
    outside.ns.sh(&["ip", "-6", "route", "add", "fd00:88::/32", "via", Outside::NODE_V6]);
    outside
}

fn is_open(from: &Netns, to: &Container, source: [&str; 2]) {
    for (v6, source) in [false, true].into_iter().zip(source) {
        for proto in [Proto::Tcp, Proto::Udp] {
            let answer = ask(from, proto, at(&to.at.ip(v6), 80)).unwrap_or_else(|error| panic!("{proto:?}: {error}"));
            assert!(answer.ends_with(&format!(" {source}")), "{answer} isn't from {source}");
        }
    }
}

fn is_closed(from: &Netns, to: &Container, port: u16) {
    for v6 in [false, true] {
        for proto in [Proto::Tcp, Proto::Udp] {
            assert!(silent(from, proto, at(&to.at.ip(v6), port)), "{proto:?} {port}");
        }
    }
}

fn open(sb: &Sandbox, backend: Backend, forward: &str) {
    for tool in ["iptables", "ip6tables"] {
        netns::sh(&[tool, "-P", "FORWARD", forward]);
    }
    let outside = neighbour(sb);
    let net = network(sb, backend, 1, "publishedOnly");
    let web = attach(sb, &net, "web");
    let (mate, far) = (attach(sb, &net, "mate"), attach(sb, &network(sb, backend, 2, "publishedOnly"), "far"));
    is_open(&outside.ns, &web, [Outside::V4, Outside::V6]);
    is_open(&far.ns, &web, [&far.at.ip(false), &far.at.ip(true)]);
    is_open(&sb.node(), &web, ["10.88.1.1", "fd00:88:1::1"]);
    is_closed(&outside.ns, &web, 81);
    is_closed(&far.ns, &web, 81);
    for v6 in [false, true] {
        assert!(ask(&mate.ns, Proto::Tcp, at(&web.at.ip(v6), 81)).is_ok(), "its neighbours reach all");
        assert!(ask(&sb.node(), Proto::Tcp, at(&web.at.ip(v6), 81)).is_ok(), "and so does the node");
        let node = if v6 { Outside::NODE_V6 } else { Outside::NODE_V4 };
        assert!(silent(&outside.ns, Proto::Tcp, at(node, 8080)), "nothing is translated");
    }
    net.check(sb, &web.at).silent();
    net.status(sb).silent();
}

fn with_policy(sb: &Sandbox, backend: Backend) {
    let [one, two] = [1, 2].map(|n| network(sb, backend, n, "publishedOnly, isolated"));
    let (web, far) = (attach(sb, &one, "web"), attach(sb, &two, "far"));
    is_open(&far.ns, &web, [&far.at.ip(false), &far.at.ip(true)]);
    is_closed(&far.ns, &web, 81);
}

fn noticed(sb: &Sandbox, backend: Backend) {
    let net = network(sb, backend, 1, "publishedOnly");
    let mut web = attach(sb, &net, "web");
    let portmap = |verb: &str, at: &Attachment| net.call(sb, verb, &net.plugins()[1], at, at.result.as_ref()).run();
    for (deed, named) in [
        ("nft flush set inet cni_open_ports open4", "open port 10.88.1.2:80 tcp"),
        ("nft flush chain inet cni_open_ports marking", "cni_open_ports marking"),
        ("nft delete table inet cni_open_ports", "cni_open_ports"),
    ] {
        portmap("CHECK", &web.at).silent();
        netns::sh(&["sh", "-c", deed]);
        portmap("CHECK", &web.at).error().names(&[named]);
        portmap("ADD", &web.at).result();
    }
    portmap("CHECK", &web.at).silent();
    web.at.result = None;
    net.del(sb, &web.at);
}

fn about(sb: &Sandbox, id: &str) -> Vec<String> {
    rules::naming(&sb.node(), "cni_open_ports")
        .into_iter()
        .filter(|line| line.contains(&format!("id: {id},")))
        .collect()
}

fn life(sb: &Sandbox, backend: Backend) {
    let net = network(sb, backend, 1, "publishedOnly");
    let [gone, lost, stays] = ["gone", "lost", "stays"].map(|id| attach(sb, &net, id));
    for _ in 0..2 {
        let mut bare = gone.at.clone();
        bare.result = None;
        net.del(sb, &bare);
    }
    assert!(about(sb, "gone").is_empty() && !about(sb, "lost").is_empty());
    net.gc(sb, &[("stays", "eth0")]).silent();
    assert!(about(sb, "lost").is_empty(), "{:?}", about(sb, "lost"));
    net.check(sb, &stays.at).silent();
    drop(lost);
}

fn portmap_alone(sb: &Sandbox, verb: &str, edit: &Value) -> cni_tests::Outcome {
    let mut conf = conf::named(sb.newest(&["portmap"]), conf::portmap(Backend::Nftables));
    conf["nat"] = false.into();
    conf["prevResult"] = json!({
        "cniVersion": conf["cniVersion"], "interfaces": [{"name": "eth0", "sandbox": "/run/netns/c"}],
        "ips": [{"address": "10.9.0.2/24", "interface": 0}]
    });
    conf["runtimeConfig"] = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    for (key, value) in edit.as_object().unwrap() {
        conf[key] = value.clone();
    }
    sb.plugin("portmap", verb).names("c1", "eth0").env("CNI_NETNS", "/run/netns/none").conf(&conf).run()
}

fn refused(sb: &Sandbox) {
    let mapping =
        json!({"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "tcp", "hostIP": "192.0.2.1"}]});
    for (edit, named) in [
        (json!({"masqAll": true}), "masqAll"),
        (json!({"conditionsV4": ["ip saddr 10.0.0.0/8"]}), "conditionsV4"),
        (json!({"excludeHostIPs": ["10.0.0.0/8"]}), "excludeHostIPs"),
        (json!({"runtimeConfig": mapping}), "192.0.2.1"),
    ] {
        portmap_alone(sb, "ADD", &edit).error().names(&[named, "nat"]);
    }
    assert!(rules::naming(&sb.node(), "cni_").is_empty());
}

/// The configuration changes under a container, to and fro.
fn again(sb: &Sandbox) {
    for (nat, there, gone) in [(false, "cni_open_ports", "cni_ports"), (true, "cni_ports", "cni_open_ports")] {
        portmap_alone(sb, "ADD", &json!({"nat": nat})).result();
        portmap_alone(sb, "CHECK", &json!({"nat": nat})).silent();
        let of = |table: &str| {
            let owned = rules::naming(&sb.node(), "id: c1,");
            owned.into_iter().filter(|line| line.contains(&format!(" {table} "))).count()
        };
        assert!(of(there) > 0 && of(gone) == 0, "{:?}", rules::naming(&sb.node(), "id: c1,"));
    }
}
