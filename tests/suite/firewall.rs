//! firewall: what gets through a node whose FORWARD policy is DROP, and what doesn't.

use cni_tests::conf::Backend;
use cni_tests::packets::{Outside, Proto, Server, ask, at, silent};
use cni_tests::{Attachment, Chain, Netns, Sandbox, netns, verdict};
use serde_json::{Value, json};

use crate::case::{Case, common, improved};

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        improved("firewall::nftables_beside_legacy_iptables", beside_legacy),
        improved("firewall::nftables_without_any_iptables", without_iptables),
        improved("firewall::auto_is_nftables_without_any_iptables", auto_without_iptables),
        improved("firewall::nftables_mark_is_gone_behind_forward", no_mark_left),
    ];
    for backend in Backend::ALL {
        let egress = move |sb: &Sandbox| egress_works(sb, backend);
        let name = format!("firewall::{}_egress_through_a_drop_policy", backend.name());
        cases.push(if backend == Backend::Iptables { common(name, egress) } else { improved(name, egress) });
        let name = |what: &str| format!("firewall::{}_{what}", backend.name());
        cases.push(improved(name("admin_chain_overrules"), move |sb| admin(sb, backend)));
        cases.push(improved(name("open_network_is_not_kept_out"), move |sb| open_beside_closed(sb, backend)));
    }
    cases
}

pub(crate) const POLICIES: [&str; 3] = ["open", "same-bridge", "isolated"];
pub(crate) const PORT: u16 = 8080;
pub(crate) const OUTSIDE_PORT: u16 = 7000;

/// A node that drops whatever nobody accepts, as Docker makes it, with an outside world.
pub(crate) struct Node<'a> {
    pub(crate) sb: &'a Sandbox,
    pub(crate) ns: Netns,
    pub(crate) outside: Outside,
    pub(crate) backend: Backend,
    _server: Server,
}

/// A network: bridge, portmap and firewall.
pub(crate) struct Net<'a> {
    pub(crate) node: &'a Node<'a>,
    pub(crate) chain: Chain,
}

pub(crate) struct Container {
    pub(crate) ns: Netns,
    pub(crate) at: Attachment,
    _server: Server,
}

/// The firewall plugin's configuration.
pub(crate) fn firewall(backend: Backend, policy: &str) -> Value {
    json!({"type": "firewall", "backend": backend.name(), "ingressPolicy": policy})
}

impl<'a> Node<'a> {
    pub(crate) fn start(sb: &'a Sandbox, backend: Backend) -> Self {
        for tool in ["iptables", "ip6tables"] {
            netns::sh(&[tool, "-P", "FORWARD", "DROP"]);
        }
        Self::accepting(sb, backend)
    }

    /// The same with the kernel's own policy.
    pub(crate) fn accepting(sb: &'a Sandbox, backend: Backend) -> Self {
        let outside = sb.outside();
        let _server = Server::start(&outside.ns, "outside", OUTSIDE_PORT);
        Self { sb, ns: sb.node(), outside, backend, _server }
    }

    /// Network `n` (a digit), with a last plugin.
    pub(crate) fn network(&'a self, n: u8, last: Option<Value>) -> Net<'a> {
        let backend = self.backend.name();
        let bridge = json!({
            "type": "bridge", "bridge": format!("br-{n}"), "isDefaultGateway": true, "hairpinMode": true,
            "ipMasq": true, "ipMasqBackend": backend,
            "ipam": {"type": "host-local", "ranges": [
                [{"subnet": format!("10.88.{n}.0/24")}], [{"subnet": format!("fd00:88:{n}::/64")}]
            ]}
        });
        let portmap = json!({"type": "portmap", "backend": backend, "capabilities": {"portMappings": true}});
        let plugins: Vec<Value> = [bridge, portmap].into_iter().chain(last).collect();
        let version = self.sb.newest(&["bridge", "portmap", "host-local", "firewall"]);
        Net { node: self, chain: Chain::new(&format!("net{n}"), version, &plugins) }
    }

    /// Network `n` with the firewall plugin.
    pub(crate) fn guarded(&'a self, n: u8, policy: &str) -> Net<'a> {
        self.network(n, Some(firewall(self.backend, policy)))
    }
}

impl Net<'_> {
    /// A container with a server on port 80.
    pub(crate) fn attach(&self, id: &str, ports: &[(u16, u16, &str)]) -> Container {
        let ns = self.node.sb.container(id);
        let mut at = Attachment::new(id, &ns).publish(ports);
        self.chain.add(self.node.sb, &mut at);
        let _server = Server::start(&ns, id, 80);
        Container { ns, at, _server }
    }
}

pub(crate) fn reaches(from: &Netns, to: &str, port: u16, who: &str) -> bool {
    let answers = ask(from, Proto::Tcp, at(to, port)).is_ok_and(|answer| answer.starts_with(who));
    answers && ask(from, Proto::Udp, at(to, port)).is_ok_and(|answer| answer.starts_with(who))
}

pub(crate) fn is_cut_off(from: &Netns, to: &str, port: u16) -> bool {
    silent(from, Proto::Tcp, at(to, port)) && silent(from, Proto::Udp, at(to, port))
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

pub(crate) const PUBLISHED: [(u16, u16, &str); 2] = [(PORT, 80, "tcp"), (PORT, 80, "udp")];

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
    // Somebody's iptables, say in a container, made the table; on the node there is none.
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

/// Old iptables can only be told by its own tools.
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
