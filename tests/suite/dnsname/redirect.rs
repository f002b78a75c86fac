//! The way to the resolver, beside other programs that want port 53 or drop packets.

use cni_tests::conf::{self, Backend};
use cni_tests::packets::{self, Proto, Server, at};
use cni_tests::{Sandbox, rules};
use serde_json::json;

use super::*;
use crate::case::{Case, improved};

type Story = fn(&Sandbox, Backend);

const STORIES: [(&str, Story); 5] = [
    ("beside_a_server_on_all_addresses", beside),
    ("beside_a_published_port_53", published),
    ("input_and_forward_drop", drops),
    ("intercept", intercept),
    ("the_bridge_is_deleted_and_comes_back", bridge_deleted),
];

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for backend in Backend::ALL {
        for (name, story) in STORIES {
            cases.push(improved(format!("{}::{name}", backend.name()), move |sb| story(sb, backend)));
        }
        cases.push(improved(format!("{}::check_and_del", backend.name()), move |sb| check_and_del(sb, backend)));
    }
    cases
}

fn on(sb: &Sandbox, backend: Backend, keys: Value) -> Chain {
    let mut keys = keys;
    keys["backend"] = backend.name().into();
    chain(sb, &keys)
}

/// A DNS server of the node has port 53 on all addresses (podman#15452).
fn beside(sb: &Sandbox, backend: Backend) {
    let _end = Reaper;
    let server = Server::start(&sb.node(), "node", 53);
    let net = on(sb, backend, json!({}));
    let (web, client) = (run(sb, &net, "web"), run(sb, &net, "client"));
    assert_eq!(found(&client.ns, "web"), [web.at.ip(false)]);
    assert_eq!(ask_tcp(&client.ns, conf::V6_GATEWAY, "web", A).addresses.len(), 1);
    // Others still reach it.
    let stranger = packets::ask(&sb.node(), Proto::Udp, at(conf::V4_GATEWAY, 53)).unwrap();
    assert!(stranger.starts_with("node "), "{stranger}");
    net.del(sb, &web.at);
    net.del(sb, &client.at);
    drop(server);
}

/// Before and after the names are there.
fn published(sb: &Sandbox, backend: Backend) {
    let _end = Reaper;
    let net = Chain::new(
        "net",
        sb.newest(&["bridge", "host-local", "dnsname", "portmap"]),
        &[conf::bridge(), conf::portmap(backend), with(&json!({"backend": backend.name()}))],
    );
    let client = run(sb, &net, "client");
    let ns = sb.container("dns");
    let mut server = named("dns", &ns).publish(&[(53, 53, "udp"), (53, 53, "tcp")]);
    net.add(sb, &mut server);
    let _server = Server::start(&ns, "published", 53);
    let late = run(sb, &net, "late");
    for one in [&client, &late] {
        assert_eq!(found(&one.ns, "dns"), [server.ip(false)]);
        assert_eq!(ask_tcp(&one.ns, conf::V4_GATEWAY, "dns", A).addresses.len(), 1);
    }
    let outside = sb.outside();
    let seen = packets::ask(&outside.ns, Proto::Udp, at(packets::Outside::NODE_V4, 53)).unwrap();
    assert!(seen.starts_with("published "), "{seen}");
}

fn drops(sb: &Sandbox, backend: Backend) {
    let (_end, node, net) = (Reaper, sb.node(), on(sb, backend, json!({})));
    for tool in ["iptables", "ip6tables"] {
        for chain in ["INPUT", "FORWARD"] {
            node.sh(&[tool, "-P", chain, "DROP"]);
        }
        node.sh(&[tool, "-A", "INPUT", "-i", "lo", "-j", "ACCEPT"]);
    }
    node.sh(&["ip6tables", "-A", "INPUT", "-p", "icmpv6", "-j", "ACCEPT"]);
    let before = [node.sh(&["iptables", "-S", "INPUT"]), node.sh(&["ip6tables", "-S", "INPUT"])];
    let (web, client) = (run(sb, &net, "web"), run(sb, &net, "client"));
    for server in [conf::V4_GATEWAY, conf::V6_GATEWAY] {
        assert_eq!(ask(&client.ns, server, "web", A).addresses.len(), 1);
        assert_eq!(ask_tcp(&client.ns, server, "web", A).addresses.len(), 1);
    }
    // Nothing else has become reachable.
    let _server = Server::start(&node, "node", 5353);
    assert!(packets::silent(&client.ns, Proto::Udp, at(conf::V4_GATEWAY, 5353)));
    assert!(packets::silent(&client.ns, Proto::Tcp, at(conf::V4_GATEWAY, 5353)));
    net.del(sb, &web.at);
    assert_eq!(ask(&client.ns, conf::V4_GATEWAY, "client", A).addresses.len(), 1);
    net.del(sb, &client.at);
    assert_eq!([node.sh(&["iptables", "-S", "INPUT"]), node.sh(&["ip6tables", "-S", "INPUT"])], before);
}

fn intercept(sb: &Sandbox, backend: Backend) {
    let (_end, net) = (Reaper, on(sb, backend, json!({"intercept": true})));
    let (web, client) = (run(sb, &net, "web"), run(sb, &net, "client"));
    for server in ["8.8.8.8", "2001:4860:4860::8888", conf::V4_GATEWAY] {
        assert_eq!(ask(&client.ns, server, "web", A).addresses[0].to_string(), web.at.ip(false), "{server}");
        assert_eq!(ask_tcp(&client.ns, server, "web.dns.test", A).addresses.len(), 1, "{server}");
    }
    net.check(sb, &client.at).silent();
    net.del(sb, &client.at);
    let silent = try_ask(&client.ns, at("8.8.8.8", 53), "web", A, Duration::from_millis(300));
    assert_eq!(silent, None);
}

fn bridge_deleted(sb: &Sandbox, backend: Backend) {
    let (_end, net) = (Reaper, on(sb, backend, json!({})));
    let _first = run(sb, &net, "first");
    sb.node().sh(&["ip", "link", "del", "br-test"]);
    let (web, client) = (run(sb, &net, "web"), run(sb, &net, "client"));
    assert_eq!(found(&client.ns, "web"), [web.at.ip(false)]);
    assert_eq!(resolvers().len(), 1);
}

fn check_and_del(sb: &Sandbox, backend: Backend) {
    let (_end, node, net) = (Reaper, sb.node(), on(sb, backend, json!({})));
    let (web, client) = (run(sb, &net, "web"), run(sb, &net, "client"));
    net.check(sb, &web.at).silent();
    let of_web = || rules::all(&node).into_iter().filter(|rule| rule.contains("id: web,")).count();
    assert!(of_web() > 0);
    net.del(sb, &web.at);
    assert_eq!(of_web(), 0);
    net.check(sb, &client.at).silent();
    assert_eq!(found(&client.ns, "client").len(), 1);
}
