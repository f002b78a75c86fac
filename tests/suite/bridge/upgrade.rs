//! bridge: a node that is upgraded under running containers, and rolled back: what the Go plugins of Debian added is
//! checked, deleted and collected by the plugins under test, and the other way round.

use std::path::Path;
use std::time::Duration;

use cni_tests::conf::{self, Backend};
use cni_tests::kernel::link;
use cni_tests::packets::ping;
use cni_tests::{Attachment, Chain, Netns, Sandbox, Snapshot, verdict};
use serde_json::Value;

use crate::case::{Case, common, improved};

/// Debian's package `containernetworking-plugins`.
const GO: &str = "/usr/lib/cni";
/// State that an allocation changes permanently, and that the first ADD creates for all containers.
const SHARED: [&str; 3] = ["last_reserved_ip", "/networks/.host-local", "table\":\"nat\",\"type\":\"filter\""];

type Scenario = fn(&Node<'_>);

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for backend in Backend::ALL {
        let stories: [(&str, Scenario); 9] = [
            ("check", |node| node.ours.check(node.sb, &node.at).silent()),
            ("check_after_damage", damaged),
            ("del", |node| node.gone(|| node.ours.del(node.sb, &node.at))),
            ("del_with_empty_netns", |node| {
                let at = node.at.clone().nowhere();
                node.vanish();
                node.gone(|| node.ours.del(node.sb, &at));
            }),
            ("del_with_empty_netns_of_one_that_lives", |node| {
                node.gone(|| node.ours.del(node.sb, &node.at.clone().nowhere()));
                assert!(link(&node.ns, "eth0").is_none());
            }),
            ("del_without_result", |node| {
                node.gone(|| node.ours.del(node.sb, &Attachment { result: None, ..node.at.clone() }));
            }),
            ("gc", |node| {
                node.vanish();
                node.gone(|| node.ours.gc(node.sb, &[]).silent());
            }),
            ("add_beside", beside),
            ("del_in_a_namespace_that_is_anothers", anothers),
        ];
        for (what, story) in stories {
            let name = format!("{}::{what}", backend.name());
            cases.push(improved(name, move |sb| with_go(sb, backend, story)));
        }
    }
    cases.push(common("iptables::rolled_back_del_by_go", rolled_back));
    cases
}

/// A node with a container that the Go plugins attached.
struct Node<'a> {
    sb: &'a Sandbox,
    go: Sandbox,
    ours: Chain,
    ns: Netns,
    at: Attachment,
    before: Snapshot,
}

fn go_chain(backend: Backend) -> Chain {
    let mut bridge = conf::masquerading(backend);
    bridge["macspoofchk"] = true.into();
    Chain::new("testnet", "1.0.0", &[bridge])
}

fn go_plugins(sb: &Sandbox) -> Sandbox {
    if !Path::new(GO).join("bridge").is_file() {
        verdict::skip(format!("no Go plugins in {GO}"));
    }
    sb.with_plugins(Path::new(GO))
}

fn with_go(sb: &Sandbox, backend: Backend, story: Scenario) {
    let go = go_plugins(sb);
    let chain = go_chain(backend);
    // The bridge and its address, shared chains.
    let mut first = Attachment::new("first", &sb.container("first"));
    chain.add(&go, &mut first);
    chain.del(&go, &first);
    let before = Snapshot::of(&[&sb.node()]);
    let ns = sb.container("c1");
    let mut at = Attachment::new("c1", &ns);
    chain.add(&go, &mut at);
    let version = sb.newest(&["bridge", "host-local"]);
    story(&Node { sb, go, ours: chain.at_version(version), ns, at, before });
}

impl Node<'_> {
    /// The container's namespace goes, and the kernel takes the links down.
    fn vanish(&self) {
        self.ns.delete();
        let port = self.at.result.as_ref().unwrap()["interfaces"][1]["name"].as_str().unwrap();
        for _ in 0..100 {
            if link(&self.sb.node(), port).is_none() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{port} is still there");
    }

    fn gone(&self, end: impl Fn()) {
        end();
        Snapshot::of(&[&self.sb.node()]).same_but(&self.before, &SHARED);
        end();
    }
}

fn damaged(node: &Node<'_>) {
    node.ours.check(node.sb, &node.at).silent();
    let masquerade = cni_tests::rules::delete_one(&node.sb.node(), "10.77.0.3");
    let error = node.ours.check(node.sb, &node.at).error();
    assert!(error.text().contains("10.77.0.3"), "after {masquerade}: {error:?}");
}

/// Containers of both reach each other on the same bridge, and one's DEL leaves the other alone.
fn beside(node: &Node<'_>) {
    let ns = node.sb.container("c2");
    let mut second = Attachment::new("c2", &ns);
    node.ours.add(node.sb, &mut second);
    for v6 in [false, true] {
        assert!(ping(&ns, &node.at.ip(v6)), "from ours to Go's, v6 {v6}");
        assert!(ping(&node.ns, &second.ip(v6)), "from Go's to ours, v6 {v6}");
    }
    node.ours.del(node.sb, &second);
    assert!(ping(&node.ns, conf::V4_GATEWAY));
    node.ours.check(node.sb, &node.at).silent();
}

/// DEL of a container whose namespace's path is another container's by now.
fn anothers(node: &Node<'_>) {
    let ns = node.sb.container("c2");
    let chain = go_chain(Backend::Iptables);
    chain.add(&node.go, &mut Attachment::new("c2", &ns));
    let stale = Attachment { netns: ns.path(), ..node.at.clone() };
    node.ours.del(node.sb, &stale);
    assert!(link(&ns, "eth0").is_some(), "c2 keeps its interface");
    assert!(ping(&ns, conf::V4_GATEWAY));
}

fn rolled_back(sb: &Sandbox) {
    let go = go_plugins(sb);
    let chain = Chain::new("testnet", "1.0.0", &[conf::masquerading(Backend::Iptables)]);
    let mut first = Attachment::new("first", &sb.container("first"));
    chain.add(sb, &mut first);
    chain.del(sb, &first);
    let before = Snapshot::of(&[&sb.node()]);
    let mut at = Attachment::new("c1", &sb.container("c1"));
    let result: Value = chain.add(sb, &mut at);
    chain.check(&go, &at).silent();
    chain.del(&go, &at);
    Snapshot::of(&[&sb.node()]).same_but(&before, &["last_reserved_ip"]);
    assert_eq!(result["interfaces"].as_array().map(Vec::len), Some(3));
}
