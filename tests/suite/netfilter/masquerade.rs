//! Egress: packets of a container leave with the node's address, seen by the host that gets them.

use cni_tests::conf::{self, Backend};
use cni_tests::legacy;
use cni_tests::packets::{Outside, Proto, Server, ask, at};
use cni_tests::{Attachment, Chain, Sandbox, rules};
use serde_json::json;

use crate::case::{Basis, Case, common, improved};
use cni_tests::story::Story;

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![common("off_means_the_containers_address", off), common("legacy_iptables", legacy)];
    for backend in Backend::ALL {
        let basis = if backend == Backend::Nftables { Basis::Newer } else { Basis::Common };
        let name = |what: &str| format!("{}::{what}", backend.name());
        let stories: [(&str, Scenario); 3] = [
            ("outside_sees_the_node", outside_sees_node),
            ("neighbours_see_each_other", neighbours),
            ("del_of_one_leaves_the_other", one_of_two),
        ];
        let after = move |sb: &Sandbox| given_again(sb, backend);
        cases.push(improved(name("an_address_of_a_dead_container_is_given_again"), after));
        let to = move |sb: &Sandbox| leaves_with(sb, backend);
        cases.push(improved(name("packets_leave_with_the_given_address"), to));
        let twice = move |sb: &Sandbox| on_two_networks(sb, backend);
        cases.push(improved(name("an_address_that_two_networks_have"), twice));
        cases.extend(stories.map(|(what, story)| common(name(what), move |sb| story(sb, backend)).based_on(basis)));
    }
    cases
}

type Scenario = fn(&Sandbox, Backend);

const PORT: u16 = 7000;

/// What the outside host sees when a container asks it, in both families and protocols.
fn seen_outside(story: &Story, from: &cni_tests::Netns) -> Vec<String> {
    let _server = Server::start(&story.outside.ns, "outside", PORT);
    let mut seen = Vec::new();
    for to in [Outside::V4, Outside::V6] {
        for proto in [Proto::Tcp, Proto::Udp] {
            seen.push(ask(from, proto, at(to, PORT)).unwrap_or_else(|e| format!("{proto:?} {to}: {e}")));
        }
    }
    seen
}

fn node_addresses() -> Vec<String> {
    [Outside::NODE_V4, Outside::NODE_V4, Outside::NODE_V6, Outside::NODE_V6].map(|ip| format!("outside {ip}")).to_vec()
}

fn outside_sees_node(sb: &Sandbox, backend: Backend) {
    let story = Story::start(sb, backend);
    let container = story.attach("c1", &[]);
    story.backend_was_used();
    assert_eq!(seen_outside(&story, &container.ns), node_addresses());
}

/// One address a family of several that the node has; the rest of the subnet's life is as with masquerading.
fn leaves_with(sb: &Sandbox, backend: Backend) {
    const TO: [&str; 2] = ["192.0.2.77", "2001:db8:99::77"];
    let mut story = Story::start(sb, backend);
    let plain = story.attach("plain", &[]);
    story.node.sh(&["ip", "addr", "add", &format!("{}/24", TO[0]), "dev", "up0"]);
    // Deprecated: the kernel does not choose it by itself.
    story.node.sh(&["ip", "addr", "add", &format!("{}/64", TO[1]), "dev", "up0", "nodad", "preferred_lft", "0"]);
    let before = rules::all(&story.node);
    let mut bridge = conf::masquerading(backend);
    bridge["ipMasqTo"] = json!(TO);
    let chain = Chain::new("story", story.chain.version(), &[bridge, conf::portmap(backend)]);
    let masquerading = std::mem::replace(&mut story.chain, chain);
    let one = story.attach("c1", &[]);
    let seen = [TO[0], TO[0], TO[1], TO[1]].map(|to| format!("outside {to}"));
    assert_eq!(seen_outside(&story, &one.ns), seen);
    assert_eq!(seen_outside(&story, &plain.ns), node_addresses(), "the others of the subnet are masqueraded");
    let answer = ask(&one.ns, Proto::Tcp, at(&plain.ip(false), 80)).unwrap();
    assert_eq!(answer, format!("plain {}", one.ip(false)), "inside the subnet nothing is translated");
    story.chain.check(sb, &one.at).silent();
    let named = if backend == Backend::Iptables { "MASQUERADE".to_owned() } else { one.ip(false) };
    masquerading.check(sb, &one.at).error().names(&[&named]);
    story.chain.del(sb, &one.at);
    assert_eq!(rules::all(&story.node), before);
}

fn neighbours(sb: &Sandbox, backend: Backend) {
    let story = Story::start(sb, backend);
    let (one, two) = (story.attach("c1", &[]), story.attach("c2", &[]));
    for v6 in [false, true] {
        let answer = ask(&one.ns, Proto::Tcp, at(&two.ip(v6), 80)).unwrap();
        assert_eq!(answer, format!("c2 {}", one.ip(v6)), "inside the subnet nothing is masqueraded");
    }
}

fn one_of_two(sb: &Sandbox, backend: Backend) {
    let story = Story::start(sb, backend);
    let (one, two) = (story.attach("c1", &[]), story.attach("c2", &[]));
    story.chain.del(sb, &one.at);
    assert_eq!(seen_outside(&story, &two.ns), node_addresses());
    for v6 in [false, true] {
        let left = rules::naming(&story.node, &one.ip(v6));
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Networks may have the same subnet. What the second one does is nothing to the first one's container, until that is gone.
fn on_two_networks(sb: &Sandbox, backend: Backend) {
    let story = Story::start(sb, backend);
    let first = story.attach_bare("c1", &[]);
    let mut bridge = conf::masquerading(backend);
    bridge["bridge"] = "br-other".into();
    bridge["isDefaultGateway"] = false.into();
    let addresses = [false, true].map(|v6| format!("{}/{}", first.ip(v6), if v6 { 64 } else { 24 }));
    bridge["ipam"] = json!({"type": "static", "addresses": addresses.map(|address| json!({"address": address}))});
    let other = Chain::new("other", story.chain.version(), &[bridge]);
    let mut second = Attachment::new("c2", &sb.container("c2"));
    other.add(sb, &mut second);
    for _ in 0..2 {
        story.chain.check(sb, &first.at).silent();
        assert_eq!(seen_outside(&story, &first.ns), node_addresses());
        other.del(sb, &second);
    }
    first.ns.delete();
    first.wait_for_its_link_to_go();
    other.add(sb, &mut second);
    other.check(sb, &second).silent();
    story.chain.del(sb, &first.at);
    other.check(sb, &second).silent();
}

fn off(sb: &Sandbox) {
    let story = Story::with(sb, Backend::Iptables, |bridge, _| bridge["ipMasq"] = false.into());
    let container = story.attach("c1", &[]);
    for (network, node) in [("10.77.0.0/24", Outside::NODE_V4), ("fd00:77::/64", Outside::NODE_V6)] {
        story.outside.ns.sh(&["ip", "route", "add", network, "via", node]);
    }
    let own = [container.ip(false), container.ip(false), container.ip(true), container.ip(true)];
    assert_eq!(seen_outside(&story, &container.ns), own.map(|ip| format!("outside {ip}")));
}

/// A node whose iptables is the old kind.
fn legacy(sb: &Sandbox) {
    let mut story = Story::start(sb, Backend::Iptables);
    story.chain = story.chain.clone().with_path(&legacy::path());
    let container = story.attach("c1", &[(8080, 80, "tcp")]);
    assert!(rules::saved(&story.node, "iptables-legacy-save", "nat").contains("MASQUERADE"), "in the old tables");
    assert_eq!(seen_outside(&story, &container.ns), node_addresses());
    let answer = ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, 8080)).unwrap();
    assert_eq!(answer, format!("c1 {}", Outside::V4));
    story.chain.del(sb, &container.at);
    let left = rules::naming(&story.node, "10.77.0.");
    assert!(left.is_empty(), "{left:?}");
}

/// Killed with its runtime, its reservations with it: no DEL ever comes, and its addresses go to the next container.
fn given_again(sb: &Sandbox, backend: Backend) {
    let story = Story::start(sb, backend);
    let dead = story.attach_bare("dead", &[]);
    dead.ns.delete();
    dead.wait_for_its_link_to_go();
    story.node.sh(&["sh", "-c", "rm -r /var/lib/cni/networks/*"]);
    let ns = sb.container("new");
    let mut new = Attachment::new("new", &ns);
    let added = story.chain.call(sb, "ADD", &conf::masquerading(backend), &new, None).run();
    new.result = Some(added.result());
    assert_eq!(added.stderr, "", "the dead container's rule is removed without a warning");
    assert_eq!((new.ip(false), new.ip(true)), (dead.ip(false), dead.ip(true)));
    assert_eq!(seen_outside(&story, &ns), node_addresses());
    story.chain.check(sb, &new).silent();
    story.chain.del(sb, &dead.at);
    assert_eq!(seen_outside(&story, &ns), node_addresses(), "a late DEL of the dead takes only its own");
    story.chain.check(sb, &new).silent();
    story.chain.del(sb, &new);
    let left: Vec<_> = ["dead", "new"].iter().flat_map(|id| rules::naming(&story.node, &format!("id: {id}"))).collect();
    assert!(left.is_empty(), "{left:?}");
}
