//! bridge and ptp make a node forward IPv6 whose own routes come from router advertisements.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cni_tests::kernel::{routes, set_sysctl, sysctl};
use cni_tests::packets::Outside;
use cni_tests::router;
use cni_tests::{Attachment, Chain, Netns, Sandbox, conf};

use super::make_read_only;
use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for main in ["bridge", "ptp"] {
        cases.push(improved(format!("{main}::keeps_the_nodes_default_route"), move |sb| keeps(sb, main)));
        cases.push(improved(format!("{main}::loses_no_route_where_settings_are_read_only"), move |sb| {
            read_only(sb, main);
        }));
        cases.push(improved(format!("{main}::leaves_an_accept_ra_of_a_daemon"), move |sb| daemon(sb, main)));
    }
    cases
}

pub(crate) fn chain(sb: &Sandbox, main: &str) -> Chain {
    let mut conf = conf::bridge();
    conf["type"] = main.into();
    Chain::new("net", sb.newest(&[main, "host-local"]), &[conf])
}

fn advertised(node: &Netns) -> bool {
    routes(node, "-6").iter().any(|route| route["dst"] == "default" && route["protocol"] == "ra")
}

fn wait_for(what: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    while !what() {
        if begin.elapsed() > Duration::from_secs(8) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Advertises from outside while `until` doesn't hold; true if it does in the end.
fn advertise(outside: &Outside, until: impl Fn() -> bool) -> bool {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| router::advertise(&outside.ns, &stop));
        let holds = wait_for(until);
        stop.store(true, Ordering::Relaxed);
        holds
    })
}

/// A node whose only IPv6 default route is from an advertisement, and another link that has had none.
fn node_with_advertised_route(sb: &Sandbox) -> Outside {
    let (node, outside) = (sb.node(), sb.outside());
    node.sh(&["ip", "-6", "route", "del", "default"]);
    node.sh(&["ip", "link", "add", "other", "type", "veth", "peer", "name", "other1"]);
    node.sh(&["ip", "link", "set", "other", "up"]);
    assert!(advertise(&outside, || advertised(&node)), "the kernel takes the advertisement");
    outside
}

/// ADD of container `id`; what it says on stderr.
fn said(sb: &Sandbox, chain: &Chain, id: &str) -> String {
    let at = Attachment::new(id, &sb.container(id));
    let outcome = chain.call(sb, "ADD", &chain.plugins()[0], &at, None).run();
    outcome.result();
    outcome.stderr
}

fn keeps(sb: &Sandbox, main: &str) {
    let outside = node_with_advertised_route(sb);
    let (node, chain) = (sb.node(), chain(sb, main));
    let first = said(sb, &chain, "c1");
    assert!(["accept_ra", "up0"].iter().all(|word| first.contains(word)), "{first}");
    assert_eq!(first.lines().count(), 1, "{first}");
    assert!(advertised(&node), "{:?}", routes(&node, "-6"));
    assert_eq!(sysctl(&node, "ipv6/conf/all/forwarding").as_deref(), Some("1"));
    assert_eq!(sysctl(&node, "ipv6/conf/up0/accept_ra").as_deref(), Some("2"));
    assert_eq!(sysctl(&node, "ipv6/conf/other/accept_ra").as_deref(), Some("1"));
    // It continues: a lost route comes back with the next advertisement.
    node.sh(&["ip", "-6", "route", "flush", "proto", "ra"]);
    assert!(advertise(&outside, || advertised(&node)), "the next advertisement is taken");
    assert_eq!(said(sb, &chain, "c2"), "", "it is said once");
}

/// Where forwarding would cost the node its route, it stays off; STATUS fails before ADD does.
fn read_only(sb: &Sandbox, main: &str) {
    sb.needs(main, "1.1.0");
    let _outside = node_with_advertised_route(sb);
    let (node, chain) = (sb.node(), chain(sb, main));
    chain.status(sb).silent();
    set_sysctl(&node, "ipv4/ip_forward", "1");
    make_read_only(&node);
    let error = chain.status(sb).error();
    assert_eq!(error.code, 50, "{error:?}");
    error.names(&["up0", "accept_ra", "Read-only"]);
    let error = chain.try_add(sb, &mut Attachment::new("c1", &sb.container("c1"))).unwrap_err().error();
    error.names(&["up0", "accept_ra", "Read-only"]);
    assert!(advertised(&node));
}

/// systemd-networkd and NetworkManager take the advertisements themselves: then the kernel's setting is 0, and the
/// routes belong to them.
fn daemon(sb: &Sandbox, main: &str) {
    let (node, _outside) = (sb.node(), sb.outside());
    set_sysctl(&node, "ipv6/conf/up0/accept_ra", "0");
    node.sh(&["ip", "-6", "route", "replace", "default", "via", Outside::V6, "proto", "ra", "expires", "600"]);
    assert_eq!(said(sb, &chain(sb, main), "c1"), "");
    assert!(advertised(&node));
    assert_eq!(sysctl(&node, "ipv6/conf/up0/accept_ra").as_deref(), Some("0"));
}
