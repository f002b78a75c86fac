//! A failed ADD takes back what it did; its error is the first one, alone on stdout.

use cni_tests::conf::{self, Backend};
use cni_tests::{Attachment, Chain, Netns, Sandbox, Snapshot};
use serde_json::{Value, json};

use crate::case::{Case, common, improved};
use cni_tests::plugins::{minimal, ready};
use cni_tests::story::Story;

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        improved("exhausted_range", exhausted),
        improved("route_that_the_kernel_refuses", bad_route),
        improved("gateway_conflicts_with_the_bridge", conflict),
        improved("no_firewall_tool", no_tool),
        improved("l2_result_that_0.2.0_cannot_hold", l2),
        improved("port_taken_leaves_nothing_of_portmap", port_taken),
        common("netns_that_is_not_there", |sb| no_netns(sb, "/run/netns/never-was")),
        common("netns_that_is_a_file", |sb| no_netns(sb, "/etc/passwd")),
        common("netns_that_is_a_directory", |sb| no_netns(sb, "/run/netns")),
        common("netns_of_another_kind", |sb| wrong_kind(sb, "ADD")),
    ];
    for plugin in ["bridge", "loopback"] {
        let name = format!("{plugin}::own_netns_is_refused_before_any_effect");
        cases.push(improved(name, move |sb| own_netns(sb, plugin)));
    }
    cases.push(common("own_netns_override", own_netns_override));
    cases
}

/// A node on which the shared things already exist: after one attachment came and went.
fn warmed(sb: &Sandbox) -> Netns {
    let chain = Chain::new("testnet", sb.newest(&["bridge", "host-local"]), &[conf::masquerading(Backend::Iptables)]);
    let mut first = Attachment::new("first", &sb.container("first"));
    chain.add(sb, &mut first);
    chain.del(sb, &first);
    sb.node()
}

/// ADD that must fail at `version`, naming `named`, with the node and the container as before.
fn fails(sb: &Sandbox, version: &str, conf: &Value, path: Option<&str>, named: &[&str]) {
    let (node, ns) = (sb.node(), sb.container("c1"));
    let before = Snapshot::of(&[&node, &ns]);
    let mut chain = Chain::new("testnet", version, std::slice::from_ref(conf));
    if let Some(path) = path {
        chain = chain.with_path(path);
    }
    let mut at = Attachment::new("c1", &ns);
    let error = chain.try_add(sb, &mut at).expect_err("ADD has to fail").error();
    error.names(named);
    Snapshot::of(&[&node, &ns]).same_but(&before, &["last_reserved_ip"]);
}

fn newest(sb: &Sandbox) -> &'static str {
    sb.newest(&["bridge", "host-local"])
}

fn exhausted(sb: &Sandbox) {
    warmed(sb);
    let mut conf = conf::masquerading(Backend::Iptables);
    conf["ipam"] = json!({"type": "host-local", "ranges": [
        [{"subnet": conf::V4}], [{"subnet": conf::V6, "rangeStart": conf::V6_GATEWAY, "rangeEnd": conf::V6_GATEWAY}]
    ]});
    fails(sb, newest(sb), &conf, None, &[conf::V6_GATEWAY]);
}

fn bad_route(sb: &Sandbox) {
    warmed(sb);
    let mut conf = conf::masquerading(Backend::Iptables);
    conf["ipam"]["routes"] = json!([{"dst": "10.9.0.0/16", "gw": "172.31.0.1"}]);
    fails(sb, newest(sb), &conf, None, &["10.9.0.0/16", "172.31.0.1"]);
}

fn conflict(sb: &Sandbox) {
    warmed(sb);
    let mut conf = conf::masquerading(Backend::Iptables);
    conf["ipam"] = json!({"type": "host-local", "subnet": "10.78.0.0/24"});
    fails(sb, newest(sb), &conf, None, &["br-test", "10.77.0.1", "10.78.0.1"]);
}

/// iptables isn't installed where the plugin looks.
fn no_tool(sb: &Sandbox) {
    warmed(sb);
    std::fs::create_dir_all("/run/cni-test/empty").unwrap();
    fails(sb, newest(sb), &conf::masquerading(Backend::Iptables), Some("/run/cni-test/empty"), &["iptables"]);
}

fn l2(sb: &Sandbox) {
    warmed(sb);
    fails(sb, "0.2.0", &json!({"type": "bridge", "bridge": "br-test"}), None, &["0.2.0"]);
}

/// bridge succeeded, portmap fails: of portmap nothing may be left, and DEL removes the rest.
fn port_taken(sb: &Sandbox) {
    let story = Story::start(sb, Backend::Nftables);
    let _one = story.attach("one", &[(8080, 80, "tcp")]);
    let ns = sb.container("two");
    let before = Snapshot::of(&[&story.node]);
    let mut two = Attachment::new("two", &ns).publish(&[(9090, 80, "tcp"), (8080, 80, "tcp")]);
    story.chain.try_add(sb, &mut two).expect_err("the port is taken").error().names(&["8080"]);
    let left = cni_tests::rules::naming(&story.node, "9090");
    assert!(left.is_empty(), "{left:?}");
    story.chain.del(sb, &two);
    Snapshot::of(&[&story.node]).same_but(&before, &["last_reserved_ip"]);
}

fn no_netns(sb: &Sandbox, path: &str) {
    for plugin in ["bridge", "loopback"] {
        let call = ready(sb, plugin, "ADD", "1.0.0", &sb.node()).env("CNI_NETNS", path);
        let before = Snapshot::of(&[&sb.node()]);
        call.run().error().names(&[path]);
        Snapshot::of(&[&sb.node()]).same_but(&before, &["br-test"]);
    }
}

/// A namespace file, but not a network's.
fn wrong_kind(sb: &Sandbox, verb: &str) {
    for plugin in ["bridge", "loopback"] {
        let call = ready(sb, plugin, verb, "1.0.0", &sb.node()).env("CNI_NETNS", "/proc/self/ns/mnt");
        let before = Snapshot::of(&[&sb.node()]);
        call.run().error();
        Snapshot::of(&[&sb.node()]).same_but(&before, &["br-test"]);
    }
}

fn own_netns(sb: &Sandbox, plugin: &str) {
    let node = sb.node();
    let before = Snapshot::of(&[&node]);
    let error = ready(sb, plugin, "ADD", "1.0.0", &node).run().error();
    // The spec has no code for it; 8 is the Go library's.
    assert_eq!(error.code, 8, "{error:?}");
    error.names(&["/proc/self/ns/net"]);
    Snapshot::of(&[&node]).same_as(&before);
}

fn own_netns_override(sb: &Sandbox) {
    for value in ["1", "true", "True"] {
        let call = ready(sb, "loopback", "ADD", "1.0.0", &sb.node()).conf(&minimal("loopback", "1.0.0"));
        call.env("CNI_NETNS_OVERRIDE", value).run().result();
    }
}
