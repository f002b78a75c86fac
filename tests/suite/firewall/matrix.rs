//! firewall: who reaches whom. The expectations are the tables of docs/firewall.md, so that nothing stands there that isn't
//! tested: each case tries one column with every row of it, and a row that it doesn't know is a failure.

use cni_tests::conf::Backend;
use cni_tests::packets::{Outside, Server};
use cni_tests::{Netns, Sandbox, kernel, parallel};

use super::{COLUMNS, Container, Net, Node, OUTSIDE_PORT, PORT, PUBLISHED, documented, is_cut_off, reaches};
use crate::case::{Basis, Case, common};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for forward in ["DROP", "ACCEPT"] {
        for policy in ["no firewall plugin"].into_iter().chain(COLUMNS) {
            for backend in Backend::ALL {
                let name = format!(
                    "{}::{}_{}",
                    backend.name(),
                    forward.to_lowercase(),
                    policy.replace(", ", "_").replace([' ', '-'], "_")
                );
                let basis = if policy == "no firewall plugin" { Basis::Common } else { Basis::Improved };
                cases.push(common(name, move |sb| column(sb, backend, forward, policy)).based_on(basis));
            }
        }
    }
    cases
}

/// Two networks with their containers.
struct Scene<'a> {
    node: &'a Node<'a>,
    web: Container,
    neighbour: Container,
    stranger: Container,
}

/// A row: who asks, at which of the addresses, and who answers.
struct Probe<'a> {
    row: &'static str,
    from: &'a Netns,
    to: [String; 2],
    port: u16,
    who: &'static str,
}

impl Scene<'_> {
    fn probes(&self) -> [Probe<'_>; 11] {
        let Scene { node, web, neighbour, stranger } = self;
        let outside = [Outside::V4, Outside::V6].map(str::to_owned);
        let published = [Outside::NODE_V4, Outside::NODE_V6].map(str::to_owned);
        let gateway = ["10.88.1.1", "fd00:88:1::1"].map(str::to_owned);
        let address = |of: &Container| [of.at.ip(false), of.at.ip(true)];
        let probe = |row, from, to: &[String; 2], port, who| Probe { row, from, to: to.clone(), port, who };
        [
            probe("container → outside", &web.ns, &outside, OUTSIDE_PORT, "outside "),
            probe("outside → published port", &node.outside.ns, &published, PORT, "web "),
            probe("outside → container's address", &node.outside.ns, &address(web), 80, "web "),
            probe(
                "outside → container's address, port not published",
                &node.outside.ns,
                &address(web),
                OTHER_PORT,
                "web ",
            ),
            probe("node → published port", &node.ns, &published, PORT, "web "),
            probe("node → container", &node.ns, &address(web), 80, "web "),
            probe("container → node", &web.ns, &gateway, NODE_PORT, "node "),
            probe("container → container, same network", &neighbour.ns, &address(web), 80, "web "),
            probe("container → container, other network", &stranger.ns, &address(web), 80, "web "),
            probe("container → published port, same network", &neighbour.ns, &published, PORT, "web "),
            probe("container → published port, other network", &stranger.ns, &published, PORT, "web "),
        ]
    }
}

/// A port that the node itself serves.
const NODE_PORT: u16 = 7001;

/// A port that a container serves and does not publish.
const OTHER_PORT: u16 = 81;

fn column(sb: &Sandbox, backend: Backend, forward: &str, policy: &str) {
    let node = if forward == "DROP" { Node::start(sb, backend) } else { Node::accepting(sb, backend) };
    let _server = Server::start(&node.ns, "node", NODE_PORT);
    if !filters_bridged(&node) {
        cni_tests::verdict::skip(
            "this kernel hands no packet that stays on a bridge to the packet filter (br_netfilter)",
        );
    }
    // The world knows the way to the containers, so that who isn't reached is kept from it by the node.
    node.outside.ns.sh(&["ip", "route", "add", "10.88.0.0/16", "via", Outside::NODE_V4]);
    node.outside.ns.sh(&["ip", "-6", "route", "add", "fd00:88::/32", "via", Outside::NODE_V6]);
    let network = |n| if policy == "no firewall plugin" { node.network(n, None) } else { node.guarded(n, policy) };
    let (one, two): (Net<'_>, Net<'_>) = (network(1), network(2));
    let scene = Scene {
        node: &node,
        web: one.attach("web", &PUBLISHED),
        neighbour: one.attach("mate", &[]),
        stranger: two.attach("far", &[]),
    };
    let _other = Server::start(&scene.web.ns, "web", OTHER_PORT);
    let expected = documented(&format!("### `FORWARD` policy `{forward}`"), policy);
    let probes = scene.probes();
    for (row, _) in &expected {
        assert!(probes.iter().any(|probe| probe.row == row), "docs/firewall.md has a row {row:?} without a test");
    }
    parallel::at_once(probes.len() * 2, |n| {
        let (probe, v6) = (&probes[n / 2], n % 2);
        let Some((_, passes)) = expected.iter().find(|(row, _)| row == probe.row) else {
            panic!("docs/firewall.md has no row {:?}", probe.row);
        };
        let to = &probe.to[v6];
        if *passes {
            assert!(reaches(probe.from, to, probe.port, probe.who), "{} doesn't get through at {to}", probe.row);
        } else {
            assert!(is_cut_off(probe.from, to, probe.port), "{} gets through at {to}", probe.row);
        }
    });
    if policy != "no firewall plugin" {
        one.chain.check(sb, &scene.web.at).silent();
    }
}

/// Whether this kernel hands what stays on a bridge to the packet filter.
fn filters_bridged(node: &Node<'_>) -> bool {
    let on = |key: &str| kernel::sysctl(&node.ns, &format!("bridge/bridge-nf-call-{key}")).as_deref() == Some("1");
    on("iptables") && on("ip6tables")
}
