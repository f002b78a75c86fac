//! bridge and ptp where something is at its limit: long names, settings of the node that can't be written, and a bridge that
//! can't have the gateway's address.

use cni_tests::kernel::link;
use cni_tests::{Attachment, Chain, Sandbox, Snapshot, conf};
use serde_json::{Value, json};

use crate::case::{Case, improved, newer};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        newer("node_settings_that_cannot_be_written", read_only),
        improved("status_gateway_address_in_the_way", in_the_way),
        improved("status_ipv6_switched_off", no_ipv6),
    ];
    for main in ["bridge", "ptp"] {
        cases.push(newer(format!("{main}::long_container_ids"), move |sb| long_ids(sb, main)));
    }
    cases
}

/// Neither the specification nor the Go plugins limit them; the kernel does with what they become a part of.
fn long_ids(sb: &Sandbox, main: &str) {
    let mut conf = conf::bridge();
    conf["type"] = main.into();
    let chain = Chain::new("net", sb.newest(&[main, "host-local"]), &[conf]);
    let ns = sb.container("c1");
    let mut first = Attachment::new("first", &ns);
    chain.add(sb, &mut first);
    chain.del(sb, &first);
    let before = Snapshot::of(&[&sb.node(), &ns]);
    // Up to the longest name of a file, which "results" of runtimes and reservations are.
    for length in [200, 233, 234, 239, 240, 241, 242, 243, 244, 255] {
        let id = "c".repeat(length);
        let mut at = Attachment::new(&id, &ns);
        chain.add(sb, &mut at);
        chain.check(sb, &at).silent();
        chain.del(sb, &at);
        chain.del(sb, &at);
        Snapshot::of(&[&sb.node(), &ns]).same_but(&before, &["last_reserved_ip"]);
    }
}

/// As where the plugins run in a container: the bridge and forwarding are the administrator's business then.
fn read_only(sb: &Sandbox) {
    let node = sb.node();
    node.sh(&["ip", "link", "add", "br-test", "type", "bridge"]);
    node.sh(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
    node.sh(&["mount", "--bind", "/proc/sys", "/proc/sys"]);
    node.sh(&["mount", "-o", "remount,ro,bind", "/proc/sys"]);
    let mut bridge = conf::bridge();
    bridge["ipam"]["ranges"] = json!([[{"subnet": conf::V4}]]);
    let chain = Chain::new("net", sb.newest(&["bridge", "host-local"]), &[bridge]);
    let mut at = Attachment::new("c1", &sb.container("c1"));
    chain.add(sb, &mut at);
    chain.check(sb, &at).silent();
    chain.del(sb, &at);
    assert!(link(&node, "br-test").is_some());
}

fn status(sb: &Sandbox, edit: &dyn Fn(&mut Value)) -> cni_tests::Outcome {
    let mut bridge = conf::bridge();
    edit(&mut bridge);
    Chain::new("net", "1.1.0", &[bridge]).status(sb)
}

fn in_the_way(sb: &Sandbox) {
    sb.needs("bridge", "1.1.0");
    let node = sb.node();
    node.sh(&["ip", "link", "add", "br-test", "type", "bridge"]);
    status(sb, &|_| {}).silent();
    let ns = sb.container("c1");
    for other in ["192.0.2.1/24", "10.77.0.1/16"] {
        node.sh(&["ip", "addr", "add", other, "dev", "br-test"]);
        let error = status(sb, &|_| {}).error();
        assert_eq!(error.code, 50, "{error:?}");
        error.names(&["br-test", "10.77.0.1/24", other, "forceAddress"]);
        let mut at = Attachment::new("c1", &ns);
        Chain::new("net", "1.1.0", &[conf::bridge()]).try_add(sb, &mut at).unwrap_err().error().names(&[other]);
        status(sb, &|conf| conf["forceAddress"] = true.into()).silent();
        node.sh(&["ip", "addr", "del", other, "dev", "br-test"]);
    }
    node.sh(&["ip", "addr", "add", "10.77.0.1/24", "dev", "br-test"]);
    status(sb, &|_| {}).silent();
    status(sb, &|conf| conf["ipam"]["ranges"][0][0]["gateway"] = "10.77.0.9".into()).error().names(&["10.77.0.9/24"]);
}

fn no_ipv6(sb: &Sandbox) {
    sb.needs("bridge", "1.1.0");
    let node = sb.node();
    node.sh(&["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"]);
    let error = status(sb, &|_| {}).error();
    assert_eq!(error.code, 50, "{error:?}");
    error.names(&["fd00:77::1/64", "disable_ipv6"]);
    status(sb, &|conf| conf["ipam"]["ranges"] = json!([[{"subnet": conf::V4}]])).silent();
    let mut at = Attachment::new("c1", &sb.container("c1"));
    assert!(Chain::new("net", "1.1.0", &[conf::bridge()]).try_add(sb, &mut at).is_err(), "STATUS is right");
}
