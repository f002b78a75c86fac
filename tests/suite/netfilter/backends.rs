//! Which packet filter is used, and what becomes of what the other one has.

use cni_tests::conf::{self, Backend};
use cni_tests::go_rules;
use cni_tests::legacy;
use cni_tests::packets::{Outside, Proto, Server, ask, at};
use cni_tests::{Attachment, Chain, Sandbox, rules, sandbox};
use serde_json::json;

use crate::case::{Case, improved};
use cni_tests::story::Story;

const PORT: u16 = 8080;
/// Where there are no tools.
const NO_TOOLS: &str = "/nowhere";

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        improved("tools_that_do_not_work_are_not_chosen", useless_tools),
        improved("others_legacy_rules_without_tools", |sb| others_rules(sb, "iptables-legacy")),
        improved("others_rules_without_tools", |sb| others_rules(sb, "iptables")),
        improved("status_needs_the_tools_of_both_families", one_family_of_tools),
        improved("legacy_iptables_holder_is_found_by_nftables", |sb| {
            other_backend(sb, Backend::Iptables, Backend::Nftables, Some(&legacy::path()));
        }),
    ];
    for backend in Backend::ALL {
        let name = format!("go_holder_is_found_by_{}", backend.name());
        cases.push(improved(name, move |sb| held_by_go(sb, backend)));
    }
    for (first, second) in [(Backend::Iptables, Backend::Nftables), (Backend::Nftables, Backend::Iptables)] {
        let name = format!("{}_holder_is_found_by_{}", first.name(), second.name());
        cases.push(improved(name, move |sb| other_backend(sb, first, second, None)));
    }
    cases
}

/// The chain with a backend, or with none for the node to choose.
fn chain(sb: &Sandbox, backend: Option<Backend>) -> Chain {
    let (mut bridge, mut portmap) = (conf::masquerading(Backend::Nftables), conf::portmap(Backend::Nftables));
    bridge["ipMasqBackend"] = backend.map_or("", Backend::name).into();
    portmap["backend"] = backend.map_or("", Backend::name).into();
    if backend.is_none() {
        portmap.as_object_mut().unwrap().remove("backend");
    }
    sb.needs("portmap", "1.1.0");
    Chain::new("story", "1.1.0", &[bridge, portmap])
}

/// The Go plugins ask the tools whether they can list a chain.
fn useless_tools(sb: &Sandbox) {
    for tool in ["iptables", "ip6tables"] {
        for part in ["", "-save", "-restore"] {
            sb.fake(&format!("{tool}{part}"), "echo 'no such kernel module' >&2; exit 3");
        }
    }
    let path = format!("{}:{}", sandbox::FAKES, std::env::var("PATH").unwrap());
    let mut story = Story::start(sb, Backend::Nftables);
    story.chain = chain(sb, None).with_path(&path);
    story.chain.status(sb).silent();
    let web = story.attach("web", &[(PORT, 80, "tcp")]);
    assert!(ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, PORT)).unwrap().starts_with("web "));
    story.backend_was_used();
    story.chain.check(sb, &web.at).silent();
    story.chain.del(sb, &web.at);
}

/// Another program's rules, without a tool to read them: they are not this plugin's.
fn others_rules(sb: &Sandbox, tool: &str) {
    let mut story = Story::start(sb, Backend::Nftables);
    for (command, source) in [(tool.to_owned(), "203.0.113.1"), (tool.replace("ip", "ip6"), "2001:db8::1")] {
        story.node.sh(&[&command, "-t", "nat", "-A", "POSTROUTING", "-s", source, "-j", "MASQUERADE"]);
        story.node.sh(&[&command, "-A", "FORWARD", "-s", source, "-j", "ACCEPT"]);
    }
    story.chain = story.chain.clone().with_path(NO_TOOLS);
    let web = story.attach("web", &[(PORT, 80, "tcp")]);
    let idle = story.attach("idle", &[]);
    story.chain.check(sb, &web.at).silent();
    for container in [&web, &idle] {
        let outcome = story.chain.try_del(sb, &container.at);
        assert!(outcome.ok(), "{outcome}");
    }
    let outcome = story.chain.gc(sb, &[]);
    assert!(outcome.ok(), "{outcome}");
    assert!(rules::naming(&story.node, "id: web").is_empty());
    assert_eq!(rules::naming(&story.node, "203.0.113.1").len(), 2, "the rules of others stay");
}

fn one_family_of_tools(sb: &Sandbox) {
    let dir = "/run/cni-test/ipv4";
    std::fs::create_dir_all(dir).unwrap();
    for part in ["", "-save", "-restore"] {
        std::os::unix::fs::symlink(format!("/usr/sbin/iptables{part}"), format!("{dir}/iptables{part}")).unwrap();
    }
    let chain = chain(sb, Some(Backend::Iptables)).with_path(dir);
    let bridge = Chain::new("story", "1.1.0", &chain.plugins()[..1]).with_path(dir);
    let error = bridge.status(sb).error();
    assert_eq!(error.code, 50);
    error.names(&["ip6tables"]);
    let mut v4 = chain.plugins()[0].clone();
    v4["ipMasqFamilies"] = json!(["ipv4"]);
    let outcome = Chain::new("story", "1.1.0", &[v4]).with_path(dir).status(sb);
    assert!(outcome.ok(), "{outcome}");
}

/// A node whose configuration has changed.
fn other_backend(sb: &Sandbox, first: Backend, second: Backend, path: Option<&str>) {
    let with_path = |chain: Chain| path.iter().fold(chain, |chain, path| chain.with_path(path));
    let mut story = Story::start(sb, Backend::Nftables);
    story.chain = with_path(chain(sb, Some(first)));
    let old = story.attach_bare("old", &[(PORT, 80, "tcp"), (53, 53, "udp")]);
    let server = Server::start(&old.ns, "old", 80);
    story.chain = with_path(chain(sb, Some(second)));
    story.chain.check(sb, &old.at).silent();
    let ns = sb.container("new");
    let mut new = Attachment::new("new", &ns).publish(&[(PORT, 80, "tcp")]);
    let error = story.chain.try_add(sb, &mut new).expect_err("the port is held").error();
    error.names(&["8080", "old"]);
    story.chain.del(sb, &new);
    assert!(ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, PORT)).unwrap().starts_with("old "));
    let other = story.attach("other", &[(9000, 80, "tcp")]);
    story.chain.del(sb, &other.at);

    drop(server);
    old.ns.delete();
    old.wait_for_its_link_to_go();
    let new = story.attach("newer", &[(PORT, 80, "tcp")]);
    assert!(ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, PORT)).unwrap().starts_with("newer "));
    let left: Vec<_> = rules::naming(&story.node, "old").into_iter().filter(|rule| rule.contains("8080")).collect();
    assert!(left.is_empty(), "{left:?}");
    story.chain.check(sb, &new.at).silent();
}

fn held_by_go(sb: &Sandbox, backend: Backend) {
    let mut story = Story::start(sb, Backend::Nftables);
    story.chain = chain(sb, Some(backend));
    let alive = story.attach("alive", &[]);
    go_rules::publish(&story.node, "alive", PORT, &alive.ip(false), &alive.ip(true));
    go_rules::publish(&story.node, "dead", 9000, "10.77.9.9", "fd00:77:9::9");
    let ns = sb.container("new");
    let mut new = Attachment::new("new", &ns).publish(&[(PORT, 80, "tcp")]);
    story.chain.try_add(sb, &mut new).expect_err("held").error().names(&["8080", "alive", "Go"]);
    story.chain.del(sb, &new);
    // Another protocol, and a container that is gone.
    let mut new = Attachment::new("new", &ns).publish(&[(PORT, 80, "sctp"), (9000, 80, "tcp")]);
    story.chain.add(sb, &mut new);
    assert!(rules::naming(&story.node, "\"comment\":\"dead\"").is_empty());
    assert_eq!(rules::naming(&story.node, "\"comment\":\"alive\"").len(), 8);
    story.chain.del(sb, &new);
    story.chain.del(sb, &alive.at);
    assert!(rules::naming(&story.node, "\"comment\":\"alive\"").is_empty());
}
