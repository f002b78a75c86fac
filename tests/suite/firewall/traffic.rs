//! firewall: what gets through a node whose FORWARD policy is DROP, and what doesn't.

use cni_tests::conf::Backend;
use cni_tests::packets::Outside;
use cni_tests::{Netns, Sandbox, netns, verdict};
use serde_json::json;

use super::{Node, OUTSIDE_PORT, PORT, PUBLISHED, is_cut_off, reaches};
use crate::case::{Case, common, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        improved("nftables::beside_legacy_iptables", beside_legacy),
        improved("nftables::without_any_iptables", without_iptables),
        improved("auto_is_nftables_without_any_iptables", auto_without_iptables),
        improved("nftables::mark_is_gone_behind_forward", no_mark_left),
    ];
    for backend in Backend::ALL {
        let egress = move |sb: &Sandbox| egress_works(sb, backend);
        let name = format!("{}::egress_through_a_drop_policy", backend.name());
        cases.push(if backend == Backend::Iptables { common(name, egress) } else { improved(name, egress) });
        let name = |what: &str| format!("{}::{what}", backend.name());
        cases.push(improved(name("admin_chain_overrules"), move |sb| admin(sb, backend)));
        cases.push(improved(name("open_network_is_not_kept_out"), move |sb| open_beside_closed(sb, backend)));
    }
    cases
}

fn egress(from: &Netns) -> bool {
    [Outside::V4, Outside::V6].iter().all(|to| reaches(from, to, OUTSIDE_PORT, "outside "))
}

#[track_caller]
fn published(node: &Node, who: &str) {
    for to in [Outside::NODE_V4, Outside::NODE_V6] {
        assert!(reaches(&node.outside.ns, to, PORT, who), "the published port of {who} at {to}");
    }
}

fn egress_works(sb: &Sandbox, backend: Backend) {
    let node = Node::start(sb, backend);
    let net = node.guarded(1, "");
    let container = net.attach("c1", &[]);
    assert!(egress(&container.ns));
    net.chain.del(sb, &container.at);
}

/// What the administrator drops stays dropped.
fn admin(sb: &Sandbox, backend: Backend) {
    let node = Node::start(sb, backend);
    let net = node.guarded(1, "open");
    let container = net.attach("c1", &[]);
    assert!(egress(&container.ns));
    let drop: &[&str] = match backend {
        Backend::Iptables => &["iptables", "-A", "CNI-ADMIN", "-d", Outside::V4, "-j", "DROP"],
        Backend::Nftables => {
            &["nft", "add", "rule", "inet", "cni_firewall", "CNI-ADMIN", "ip", "daddr", Outside::V4, "drop"]
        }
    };
    node.ns.sh(drop);
    assert!(is_cut_off(&container.ns, Outside::V4, OUTSIDE_PORT));
    assert!(reaches(&container.ns, Outside::V6, OUTSIDE_PORT, "outside "));
    let second = net.attach("c2", &[]);
    assert!(is_cut_off(&second.ns, Outside::V4, OUTSIDE_PORT), "and survives the next container");
    net.chain.check(sb, &second.at).silent();
}

/// As in the Go plugin: a policy keeps out those who have one.
fn open_beside_closed(sb: &Sandbox, backend: Backend) {
    let node = Node::start(sb, backend);
    let (open, closed) = (node.guarded(1, "open"), node.guarded(2, "same-bridge"));
    let (from, to) = (open.attach("from", &[]), closed.attach("to", &[]));
    assert!(reaches(&from.ns, &to.at.ip(false), 80, "to "));
}

fn empty_path() -> &'static str {
    std::fs::create_dir_all("/run/cni-test/empty").unwrap();
    "/run/cni-test/empty"
}

fn without_iptables(sb: &Sandbox) {
    let node = Node::accepting(sb, Backend::Nftables);
    // Another iptables, say in a container, made the table; on the node there is none.
    for tool in ["iptables", "ip6tables"] {
        netns::sh(&[tool, "-P", "FORWARD", "DROP"]);
    }
    let mut net = node.guarded(1, "same-bridge");
    net.chain = net.chain.clone().with_path(empty_path());
    let web = net.attach("web", &PUBLISHED);
    assert!(egress(&web.ns));
    published(&node, "web ");
    net.chain.check(sb, &web.at).silent();
    // And the iptables tools still understand their table.
    let shown = node.ns.sh(&["iptables", "-S", "FORWARD"]);
    assert!(shown.contains("--mark") && shown.contains("-j ACCEPT"), "{shown}");
    net.chain.del(sb, &web.at);
}

fn auto_without_iptables(sb: &Sandbox) {
    let node = Node::accepting(sb, Backend::Nftables);
    let mut net = node.network(1, Some(json!({"type": "firewall", "backend": "", "ingressPolicy": "isolated"})));
    net.chain = net.chain.clone().with_path(empty_path());
    let container = net.attach("c1", &[]);
    assert!(egress(&container.ns));
    let tables = node.ns.sh(&["nft", "list", "tables"]);
    assert!(tables.contains("table inet cni_firewall"), "{tables}");
    net.chain.del(sb, &container.at);
}

/// Rules of legacy iptables are visible to its own tools only.
fn beside_legacy(sb: &Sandbox) {
    if !std::path::Path::new("/usr/sbin/iptables-legacy").exists() {
        verdict::skip("no iptables-legacy here");
    }
    for tool in ["iptables-legacy", "ip6tables-legacy"] {
        netns::sh(&[tool, "-P", "FORWARD", "DROP"]);
    }
    let node = Node::accepting(sb, Backend::Nftables);
    let net = node.guarded(1, "open");
    let web = net.attach("web", &PUBLISHED);
    assert!(egress(&web.ns));
    published(&node, "web ");
    net.chain.check(sb, &web.at).silent();
    node.ns.sh(&["iptables-legacy", "-F", "FORWARD"]);
    net.chain.check(sb, &web.at).error().names(&["FORWARD", "legacy"]);
}

/// The mark is between our chain and iptables' only.
fn no_mark_left(sb: &Sandbox) {
    let node = Node::start(sb, Backend::Nftables);
    let net = node.guarded(1, "open");
    let container = net.attach("c1", &[]);
    node.ns.sh(&[
        "nft",
        "add table inet probe; add chain inet probe post { type filter hook postrouting priority 0; }; \
        add rule inet probe post meta mark != 0 drop",
    ]);
    assert!(egress(&container.ns), "no packet leaves with a mark");
}
