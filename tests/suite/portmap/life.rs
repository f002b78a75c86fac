//! portmap: ports over time: holders that are gone, two networks of one container, a rule set that is flushed.

use cni_tests::conf::{self, Backend};
use cni_tests::packets::{Outside, Proto, Server, ask, at, silent};
use cni_tests::{Attachment, Chain, Sandbox, Snapshot, kernel, rules};
use serde_json::json;

use super::flows::Client;
use super::{PORT, start, with_each_backend, with_legacy_tools, with_tools};
use crate::case::Case;

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = with_each_backend(&[
        ("a_port_of_a_dead_container_is_taken_over", evicted),
        ("a_port_of_a_dead_container_whose_number_is_anothers", renumbered),
        ("a_port_on_all_addresses_is_held", taken),
        ("both_networks_of_a_container", two_networks),
        ("the_other_network_takes_over", taken_over),
        ("a_flushed_rule_set", flushed),
    ]);
    cases.extend([with_legacy_tools("evicted", evicted), with_legacy_tools("taken", taken)]);
    cases
}

/// Its runtime forgot it: no DEL, no namespace, no link.
fn evicted(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    let dead = story.attach_bare("dead", &[(PORT, 80, "tcp"), (9000, 80, "tcp")]);
    let ns = sb.container("new");
    let mut new = Attachment::new("new", &ns).publish(&[(PORT, 80, "tcp")]);
    story.chain.try_add(sb, &mut new).expect_err("it still lives").error().names(&["dead"]);
    story.chain.del(sb, &new);
    dead.ns.delete();
    dead.wait_for_its_link_to_go();
    with_tools(Chain::new("story", story.chain.version(), &[conf::masquerading(backend)])).add(sb, &mut new);
    let added = story.chain.call(sb, "ADD", &conf::portmap(backend), &new, new.result.as_ref()).run();
    added.result();
    assert!(added.stderr.contains("dead") && added.stderr.contains("withdrew"), "it says so: {added}");
    let _server = Server::start(&ns, "new", 80);
    for to in [Outside::NODE_V4, Outside::NODE_V6] {
        assert!(ask(&story.outside.ns, Proto::Tcp, at(to, PORT)).unwrap().starts_with("new "));
    }
    // Its masquerading is the bridge's business.
    let left: Vec<_> = rules::naming(&story.node, "dead").into_iter().filter(|rule| rule.contains("9000")).collect();
    assert!(left.is_empty(), "it went with all its ports: {left:?}");
    story.chain.check(sb, &new).silent();
}

/// A rule set that was saved is restored after a restart of the node, when the number of the holder's link is another link's:
/// one of another kind, and another container's.
fn renumbered(sb: &Sandbox, backend: Backend) {
    sb.needs("portmap", "1.1.0");
    let story = start(sb, backend);
    for (port, other) in (PORT..).zip(["bridge", "container"]) {
        let (id, new_id) = (format!("old-{other}"), format!("new-{other}"));
        let dead = story.attach_bare(&id, &[(port, 80, "tcp")]);
        let link = kernel::link(&story.node, &dead.host_link()).unwrap()["ifindex"].as_u64().unwrap();
        dead.ns.delete();
        dead.wait_for_its_link_to_go();
        let number = link.to_string();
        if other == "bridge" {
            story.node.sh(&["ip", "link", "add", "dev", "stranger", "index", &number, "type", "bridge"]);
        } else {
            story.node.sh(&["ip", "link", "add", "dev", "veth-other", "index", &number, "type", "veth"]);
            let mark = "cni-0123456789abcdef-0123456789abcdef";
            story.node.sh(&["ip", "link", "property", "add", "dev", "veth-other", "altname", mark]);
        }
        let new = story.attach(&new_id, &[(port, 80, "tcp")]);
        let answer = ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, port)).unwrap();
        assert!(answer.starts_with(&new_id), "{answer}");
        story.chain.check(sb, &new.at).silent();
    }
}

fn taken(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    let one = story.attach("one", &[(PORT, 80, "tcp")]);
    let ns = sb.container("two");
    let mut two = Attachment::new("two", &ns).publish(&[(7070, 80, "tcp"), (PORT, 80, "tcp")]);
    let error = story.chain.try_add(sb, &mut two).expect_err("the port is taken").error();
    error.names(&["8080", "tcp", "one"]);
    story.chain.del(sb, &two);
    assert!(silent(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, 7070)), "all or nothing");
    assert!(ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, PORT)).unwrap().starts_with("one "));
    story.chain.check(sb, &one.at).silent();
    story.chain.del(sb, &one.at);
    let mut two = Attachment::new("two", &ns).publish(&[(PORT, 80, "tcp")]);
    story.chain.add(sb, &mut two);
    story.chain.del(sb, &two);
}

/// Runtimes pass the ports to every network of a container.
fn two_networks(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    let before = Snapshot::of(&[&story.node]);
    let web = story.attach("web", &[(PORT, 80, "tcp")]);
    let bridge = json!({"type": "bridge", "bridge": "br-second", "isGateway": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.79.0.0/24"}]]}});
    let second = Chain::new("second", story.chain.version(), &[bridge, conf::portmap(backend)]);
    let mut also = Attachment::new("web", &web.ns).on("eth1").publish(&[(PORT, 80, "tcp")]);
    second.add(sb, &mut also);
    assert!(ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, PORT)).unwrap().starts_with("web "));
    story.chain.check(sb, &web.at).silent();
    second.check(sb, &also).silent();
    second.del(sb, &also);
    assert!(ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, PORT)).unwrap().starts_with("web "));
    story.chain.del(sb, &web.at);
    let left = rules::naming(&story.node, "web");
    assert!(left.is_empty(), "{left:?}");
    drop(before);
}

/// The network that served is detached, by DEL and then by GC, without a further ADD.
fn taken_over(sb: &Sandbox, backend: Backend) {
    sb.needs("portmap", "1.1.0");
    let story = start(sb, backend);
    let ports = [(PORT, 80, "tcp"), (PORT, 80, "udp")];
    let web = story.attach("web", &ports);
    let others = [("second", "eth1", "10.79"), ("third", "eth2", "10.78")].map(|(name, ifname, net)| {
        let ranges = json!([[{"subnet": format!("{net}.0.0/24")}]]);
        let bridge = json!({"type": "bridge", "bridge": format!("br-{name}"), "isGateway": true,
            "ipam": {"type": "host-local", "ranges": ranges}});
        let chain = Chain::new(name, story.chain.version(), &[bridge, conf::portmap(backend)]);
        let mut at = Attachment::new("web", &web.ns).on(ifname).publish(&ports);
        chain.add(sb, &mut at);
        (chain, at, format!("{net}.0.1"))
    });
    let client = Client::new(&story);
    client.reaches("web ");
    let served = |gateway: &str| {
        web.ns.sh(&["ip", "route", "replace", "default", "via", gateway]);
        client.reaches("web ");
        for proto in [Proto::Tcp, Proto::Udp] {
            let answer = ask(&story.outside.ns, proto, at(Outside::NODE_V4, PORT)).unwrap();
            assert_eq!(answer, format!("web {}", Outside::V4), "through {gateway}");
        }
        let answer = ask(&story.node, Proto::Tcp, at("127.0.0.1", PORT)).unwrap();
        assert_eq!(answer, format!("web {gateway}"), "the network's own bridge");
    };
    served(conf::V4_GATEWAY);
    story.chain.del(sb, &web.at);
    for (chain, at, gateway) in &others {
        served(gateway);
        chain.check(sb, at).silent();
        chain.gc(sb, &[]).silent();
    }
    assert!(silent(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, PORT)), "the last one is gone");
    let left = rules::naming(&story.node, "web");
    assert!(left.is_empty(), "{left:?}");
}

/// A firewall was reloaded: CHECK reports the loss, and both repairs of docs/portmap.md work.
fn flushed(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    let old = story.attach("old", &[(9000, 80, "tcp")]);
    let (save, load) = if backend == Backend::Nftables {
        ("nft list tables | grep ' cni_' | while read -r table; do nft list $table; done", "nft -f")
    } else {
        ("iptables-save", "iptables-restore")
    };
    let answers = |port: u16, to: &str, id: &str| {
        let from = if to == "127.0.0.1" { &story.node } else { &story.outside.ns };
        assert!(ask(from, Proto::Tcp, at(to, port)).unwrap().starts_with(id), "{to}");
    };
    story.node.sh(&["sh", "-c", &format!("({save}) >/run/before")]);
    let lost = || {
        story.node.sh(&["nft", "flush", "ruleset"]);
        let error = story.chain.check(sb, &old.at).error();
        assert!(error.text().contains("10.77.0.2") || error.text().contains("9000"), "{error:?}");
        assert!(silent(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, 9000)));
    };
    lost();
    story.node.sh(&["sh", "-c", &format!("{load} /run/before")]);
    for to in [Outside::NODE_V4, "127.0.0.1"] {
        answers(9000, to, "old ");
    }
    lost();
    let new = story.attach("new", &[(PORT, 80, "tcp")]);
    for to in [Outside::NODE_V4, Outside::NODE_V6, "127.0.0.1"] {
        answers(PORT, to, "new ");
    }
    story.chain.check(sb, &new.at).silent();
    // As `podman network reload` does: DEL and ADD for the running container.
    story.chain.del(sb, &old.at);
    let mut again = Attachment::new("old", &old.ns).publish(&[(9000, 80, "tcp")]);
    story.chain.add(sb, &mut again);
    for to in [Outside::NODE_V4, Outside::NODE_V6, "127.0.0.1"] {
        answers(9000, to, "old ");
    }
    for container in [again, new.at] {
        story.chain.check(sb, &container).silent();
        story.chain.del(sb, &container);
    }
}
