//! What one does with networks: a gateway without the outside, isolation, a second network, options of one's own.

use std::collections::BTreeSet;

use super::{between, chain_of};
use cni_tests::kernel::{addresses, default_routes, link};
use cni_tests::packets::{Outside, Proto, Server, ask, at, ping, silent};
use cni_tests::{Attachment, Chain, Netns, Sandbox};
use serde_json::json;

/// A container with a server on port 80.
struct Container {
    ns: Netns,
    at: Attachment,
    _server: Server,
}

fn attach(sb: &Sandbox, chain: &Chain, id: &str) -> Container {
    let ns = sb.container(id);
    let mut at = Attachment::new(id, &ns);
    chain.add(sb, &mut at);
    Container { _server: Server::start(&ns, id, 80), ns, at }
}

/// The host and the containers reach each other; the world doesn't know the containers' addresses.
pub(crate) fn gateway(sb: &Sandbox, chain: &Chain) {
    let outside = sb.outside();
    between(sb, chain, |[(one, at_one), (two, at_two)]| {
        let (_web, _host) = (Server::start(one, "web", 80), Server::start(&sb.node(), "host", 7001));
        for (v6, gateway) in [(false, "10.95.0.1"), (true, "fd00:95::1")] {
            assert_eq!(ask(&sb.node(), Proto::Tcp, at(&at_one.ip(v6), 80)).unwrap(), format!("web {gateway}"));
            assert_eq!(ask(one, Proto::Udp, at(gateway, 7001)).unwrap(), format!("host {}", at_one.ip(v6)));
            assert!(ping(one, &at_two.ip(v6)) && ping(two, &at_one.ip(v6)), "each other");
        }
        let _world = Server::start(&outside.ns, "world", 7000);
        assert!(
            default_routes(one, "-4").is_empty() && silent(one, Proto::Tcp, at(Outside::V4, 7000)),
            "no host outside"
        );
    });
}

/// Where the node forwards nothing by default, containers reach out, and only what they asked for comes back.
pub(crate) fn forward_drop(sb: &Sandbox, chain: &Chain) {
    let outside = sb.outside();
    for tool in ["iptables", "ip6tables"] {
        sb.node().sh(&[tool, "-P", "FORWARD", "DROP"]);
    }
    between(sb, chain, |[(one, at_one), (_, at_two)]| {
        let (_web, _world) = (Server::start(one, "web", 80), Server::start(&outside.ns, "world", 7000));
        for (v6, world, node) in [(false, Outside::V4, Outside::NODE_V4), (true, Outside::V6, Outside::NODE_V6)] {
            for proto in [Proto::Tcp, Proto::Udp] {
                assert_eq!(ask(one, proto, at(world, 7000)).unwrap(), format!("world {node}"));
            }
            assert!(ping(one, &at_two.ip(v6)), "on the bridge nothing is forwarded");
            outside.ns.sh(&["ip", "route", "add", &at_one.ip(v6), "via", node]);
            assert!(silent(&outside.ns, Proto::Tcp, at(&at_one.ip(v6), 80)), "who wasn't asked doesn't come in");
        }
    });
}

/// Several containers behind one port.
pub(crate) fn shared_ports(sb: &Sandbox, chain: &Chain) {
    let outside = sb.outside();
    let attach = |id: &str| {
        let ns = sb.container(id);
        let mut at = Attachment::new(id, &ns).publish(&[(8080, 80, "tcp")]);
        chain.add(sb, &mut at);
        (Server::start(&ns, id, 80), at)
    };
    let [one, two] = ["one", "two"].map(attach);
    let answers = |to: &str| {
        let ask = |_| ask(&outside.ns, Proto::Tcp, at(to, 8080)).unwrap();
        (0..30).map(ask).map(|answer| answer.split(' ').next().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    for to in [Outside::NODE_V4, Outside::NODE_V6] {
        assert_eq!(answers(to), ["one", "two"].map(str::to_owned).into());
    }
    chain.check(sb, &one.1).silent();
    chain.del(sb, &one.1);
    assert_eq!(answers(Outside::NODE_V4), ["two".to_owned()].into());
    chain.check(sb, &two.1).silent();
    chain.del(sb, &two.1);
}

/// Like docker's networks, these show a host on the wire that has a route to the containers what is published, and nothing else.
pub(crate) fn closed(sb: &Sandbox, chain: &Chain) {
    let outside = sb.outside();
    let ns = sb.container("web");
    let mut web = Attachment::new("web", &ns).publish(&[(8080, 80, "tcp")]);
    chain.add(sb, &mut web);
    let _servers = [80, 81].map(|port| Server::start(&ns, "web", port));
    for (family, node) in [("-4", Outside::NODE_V4), ("-6", Outside::NODE_V6)] {
        let v6 = family == "-6";
        outside.ns.sh(&["ip", family, "route", "add", &web.ip(v6), "via", node]);
        for port in [80, 81] {
            assert!(silent(&outside.ns, Proto::Tcp, at(&web.ip(v6), port)), "{port} at its own address");
        }
        assert!(ask(&outside.ns, Proto::Tcp, at(node, 8080)).is_ok(), "what is published");
        assert!(ask(&sb.node(), Proto::Tcp, at(&web.ip(v6), 81)).is_ok(), "and the node itself");
    }
    chain.check(sb, &web).silent();
    chain.del(sb, &web);
}

/// Two networks that don't see each other; this one and `61-isolated-blue`.
pub(crate) fn isolated(sb: &Sandbox, red: &Chain) {
    let outside = sb.outside();
    let blue = chain_of(sb, "61-isolated-blue.conflist");
    let [one, two] = ["one", "two"].map(|id| attach(sb, red, id));
    let other = attach(sb, &blue, "other");
    let _world = Server::start(&outside.ns, "world", 7000);
    for v6 in [false, true] {
        assert!(ask(&one.ns, Proto::Tcp, at(&two.at.ip(v6), 80)).is_ok(), "on one network");
        assert!(silent(&one.ns, Proto::Tcp, at(&other.at.ip(v6), 80)), "red to blue");
        assert!(silent(&other.ns, Proto::Udp, at(&one.at.ip(v6), 80)), "blue to red");
        assert!(ask(&other.ns, Proto::Tcp, at(if v6 { Outside::V6 } else { Outside::V4 }, 7000)).is_ok(), "outside");
    }
    for (chain, container) in [(red, &one), (red, &two), (&blue, &other)] {
        chain.check(sb, &container.at).silent();
        chain.del(sb, &container.at);
    }
}

/// The other half of [`isolated`]: alone it is a network like any other.
pub(crate) fn alone(sb: &Sandbox, chain: &Chain) {
    between(sb, chain, |[(one, _), (_, at_two)]| assert!(ping(one, &at_two.ip(false)) && ping(one, &at_two.ip(true))));
}

/// Containers of one network that reach the host and the world but not each other.
pub(crate) fn no_neighbours(sb: &Sandbox, chain: &Chain) {
    let outside = sb.outside();
    between(sb, chain, |[(one, at_one), (two, at_two)]| {
        let (_web, _world) = (Server::start(two, "web", 80), Server::start(&outside.ns, "world", 7000));
        for (v6, world) in [(false, Outside::V4), (true, Outside::V6)] {
            assert!(silent(one, Proto::Tcp, at(&at_two.ip(v6), 80)), "neighbours");
            assert!(ask(&sb.node(), Proto::Tcp, at(&at_two.ip(v6), 80)).is_ok(), "the host");
            assert!(ask(one, Proto::Udp, at(world, 7000)).is_ok(), "the world");
            assert!(ping(&sb.node(), &at_one.ip(v6)));
        }
    });
}

/// A container of the dual-stack network joins this one, and leaves it; its way out stays the first network's.
pub(crate) fn second(sb: &Sandbox, chain: &Chain) {
    let outside = sb.outside();
    let first = chain_of(sb, "10-dual-stack.conflist");
    let (one, other) = (attach(sb, &first, "one"), attach(sb, chain, "other"));
    let _world = Server::start(&outside.ns, "world", 7000);
    let ways_out = ["-4", "-6"].map(|family| default_routes(&one.ns, family));
    let mut joined = Attachment::new("one", &one.ns).on("eth1");
    chain.add(sb, &mut joined);
    for v6 in [false, true] {
        let answer = ask(&one.ns, Proto::Tcp, at(&other.at.ip(v6), 80)).unwrap();
        assert_eq!(answer, format!("other {}", joined.ip(v6)), "straight over the second network");
    }
    assert_eq!(["-4", "-6"].map(|family| default_routes(&one.ns, family)), ways_out);
    assert!(ask(&one.ns, Proto::Tcp, at(Outside::V4, 7000)).is_ok());
    chain.check(sb, &joined).silent();
    chain.del(sb, &joined);
    assert!(link(&one.ns, "eth1").is_none());
    assert!(ask(&one.ns, Proto::Tcp, at(Outside::V6, 7000)).is_ok(), "the first network is as it was");
    first.check(sb, &one.at).silent();
    first.del(sb, &one.at);
    chain.del(sb, &other.at);
}

/// What `docker network create` has options for, and an address and a MAC asked for by the runtime.
pub(crate) fn own_options(sb: &Sandbox, chain: &Chain) {
    let outside = sb.outside();
    outside.ns.sh(&["ip", "route", "add", "10.100.0.0/16", "via", Outside::NODE_V4]);
    between(sb, chain, |[(one, at_one), (_, at_two)]| {
        let (mac, wish) = ("02:00:00:00:00:64", json!(["10.100.5.77/16", "fd00:100::77/64"]));
        let asking = sb.container("asking");
        let mut asked = Attachment::new("asking", &asking).on("net0").with("ips", wish).with("mac", mac.into());
        chain.add(sb, &mut asked);
        assert_eq!(addresses(&asking, "net0"), ["10.100.5.77/16", "fd00:100::77/64"]);
        let net0 = link(&asking, "net0").unwrap();
        assert_eq!((net0["mtu"].as_u64(), net0["address"].as_str()), (Some(1400), Some(mac)));
        assert_eq!(default_routes(&asking, "-4"), ["10.100.5.254 dev net0"]);
        assert_eq!(addresses(&sb.node(), "br-own"), ["10.100.5.254/16", "fd00:100::1/64"]);
        for at in [at_one, at_two] {
            assert!(at.ip(false).starts_with("10.100.5."), "in the range: {}", at.ip(false));
        }
        let _world = Server::start(&outside.ns, "world", 7000);
        let seen = ask(one, Proto::Tcp, at(Outside::V4, 7000)).unwrap();
        assert_eq!(seen, format!("world {}", at_one.ip(false)), "not masqueraded");
        chain.check(sb, &asked).silent();
        chain.del(sb, &asked);
    });
}

/// A pod on a node of a cluster: other nodes reach it at its own address, by a route to the node's range.
pub(crate) fn cluster_node(sb: &Sandbox, chain: &Chain) {
    let other_node = sb.outside();
    for (range, node) in [("10.244.1.0/24", Outside::NODE_V4), ("fd00:244:1::/64", Outside::NODE_V6)] {
        other_node.ns.sh(&["ip", "route", "add", range, "via", node]);
    }
    between(sb, chain, |[(one, at_one), (two, _)]| {
        let (_web, _peer) = (Server::start(one, "web", 80), Server::start(&other_node.ns, "peer", 7000));
        for (v6, peer, node) in [(false, Outside::V4, Outside::NODE_V4), (true, Outside::V6, Outside::NODE_V6)] {
            let said = ask(&other_node.ns, Proto::Tcp, at(&at_one.ip(v6), 80)).unwrap();
            assert_eq!(said, format!("web {peer}"), "at its own address");
            let said = ask(one, Proto::Udp, at(peer, 7000)).unwrap();
            assert_eq!(said, format!("peer {}", at_one.ip(v6)), "with its own address");
            assert!(ask(&other_node.ns, Proto::Tcp, at(node, 8080)).is_ok(), "its host port");
            assert!(ask(two, Proto::Tcp, at(node, 8080)).is_ok(), "its host port, by a neighbour");
        }
    });
}
