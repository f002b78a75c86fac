//! `connect` and `disconnect`: a second network for a container that a runtime has attached to the first.

use std::path::Path;

use cni_tests::kernel::{addresses, link};
use cni_tests::packets::ping;
use cni_tests::{Sandbox, Snapshot};
use serde_json::json;

use super::{CACHE, attach, network, printed, refused, shown};
use crate::case::{Case, improved};
use crate::dnsname::Reaper;

/// All cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("a_second_network", second),
        improved("an_address_and_a_name_are_requested", requested),
        improved("names_are_found_while_it_is_connected", alias),
        improved("a_container_that_the_cache_does_not_know", by_process),
        improved("a_failed_add_leaves_nothing", rollback),
        improved("what_can_not_be_done_is_named", refusals),
    ]
}

fn second(sb: &Sandbox) {
    network("red", 51, &json!({}), &[]);
    network("blue", 52, &json!({}), &[]);
    let one = attach(sb, "red", "c1-with-a-long-name");
    let other = attach(sb, "blue", "c2");
    let before = Snapshot::of(&[&sb.node(), &one]);
    let said = printed(sb, &["connect", "blue", "c1"]);
    assert_eq!(said.trim(), format!("eth1 {}", addresses(&one, "eth1")[0]));
    assert!(ping(&one, addresses(&other, "eth0")[0].split('/').next().unwrap()));
    let rows = shown(sb, &["ps", "--container", "c1-with"]);
    assert_eq!((rows.len(), &rows[0]["network"], &rows[0]["ifName"]), (2, &"blue".into(), &"eth1".into()));
    refused(sb, &["connect", "blue", "c1"], &["is on network blue already, with eth1", "--ifname"]);
    printed(sb, &["connect", "blue", "c1", "--ifname", "more0"]);
    refused(sb, &["disconnect", "blue", "c1"], &["eth1, more0", "--ifname"]);
    printed(sb, &["disconnect", "blue", "c1", "--ifname", "more0"]);
    printed(sb, &["disconnect", "blue", "c1"]);
    Snapshot::of(&[&sb.node(), &one]).same_but(&before, &["last_reserved_ip"]);
    refused(sb, &["disconnect", "blue", "c1"], &["not on network \"blue\"", "red"]);
}

fn requested(sb: &Sandbox) {
    network("red", 53, &json!({}), &[]);
    network("blue", 54, &json!({}), &[]);
    // Without the capability an address goes the old way.
    network("old", 55, &json!({"capabilities": {}}), &[]);
    let ns = attach(sb, "red", "c1");
    printed(sb, &["connect", "blue", "c1", "--ip", "10.54.0.77", "--ifname", "b0"]);
    printed(sb, &["connect", "old", "c1", "--ip", "10.55.0.77", "--ifname", "o0", "--json"]);
    assert_eq!(
        (addresses(&ns, "b0"), addresses(&ns, "o0")),
        (vec!["10.54.0.77/24".to_owned()], vec!["10.55.0.77/24".to_owned()])
    );
    refused(sb, &["connect", "blue", "c1", "--ip", "10.54.0.77", "--ifname", "b1"], &["10.54.0.77", "c1"]);
    refused(
        sb,
        &["connect", "old", "c1", "--ip", "10.55.0.7", "--ip", "10.55.0.8", "--ifname", "o1"],
        &["--ip", "\"ips\""],
    );
    refused(sb, &["connect", "blue", "c1", "--alias", "web", "--ifname", "b1"], &["--alias", "\"aliases\"", "dnsname"]);
}

/// Names of a network that a running container is connected to: found while it is connected.
fn alias(sb: &Sandbox) {
    let _end = Reaper;
    let names = [json!({"type": "dnsname", "domainName": "dns.test", "capabilities": {"aliases": true}})];
    network("red", 156, &json!({}), &[]);
    network("blue", 157, &json!({"isDefaultGateway": true}), &names);
    let client = attach(sb, "blue", "client");
    let _server = attach(sb, "red", "server");
    let found =
        |name: &str| client.sh(&["dig", "+short", "+time=2", "+tries=3", "@10.157.0.1", name]).trim().to_owned();
    assert_eq!(found("db"), "");
    printed(sb, &["connect", "blue", "server", "--ip", "10.157.0.99", "--alias", "db", "--alias", "store"]);
    assert_eq!([found("db"), found("store.dns.test")], ["10.157.0.99", "10.157.0.99"]);
    refused(sb, &["connect", "blue", "server", "--ifname", "b1", "--alias", "no name"], &["no name", "aliases"]);
    printed(sb, &["disconnect", "blue", "server"]);
    assert_eq!(found("db"), "");
}

fn by_process(sb: &Sandbox) {
    network("red", 56, &json!({}), &[]);
    let ns = sb.container("c9");
    refused(sb, &["connect", "red", "c9"], &["\"c9\"", CACHE, "cninet ps"]);
    let mut sleeping = ns.run(|| {
        let mut command = std::process::Command::new("sleep");
        command.arg("60").spawn().unwrap()
    });
    let pid = sleeping.id().to_string();
    printed(sb, &["connect", "red", "c9", "--pid", &pid]);
    assert!(link(&ns, "eth0").is_some());
    assert_eq!(shown(sb, &["ps"])[0]["namespace"], format!("/proc/{pid}/ns/net"));
    assert_eq!(shown(sb, &["ps"])[0]["state"], "running");
    sleeping.kill().unwrap();
    sleeping.wait().unwrap();
    // Its path is gone, but it is mounted elsewhere, and the other end of the link is in it.
    assert_eq!(shown(sb, &["leaks"]), [] as [serde_json::Value; 0]);
    refused(sb, &["connect", "red", "c8", "--pid", "1999999999"], &["/proc/1999999999/ns/net", "does not exist"]);
}

fn rollback(sb: &Sandbox) {
    network("red", 57, &json!({}), &[]);
    network("blue", 58, &json!({"ipMasq": true}), &[json!({"type": "failing"})]);
    sb.fake(
        "failing",
        "cat >/dev/null; [ $CNI_COMMAND = ADD ] || exit 0; echo '{\"code\": 100, \"msg\": \"not today\"}'; exit 1",
    );
    let ns = attach(sb, "red", "c1");
    let before = Snapshot::of(&[&ns]);
    refused(sb, &["connect", "blue", "c1"], &["failing", "not today"]);
    Snapshot::of(&[&ns]).same_but(&before, &["networks/blue", ".host-local/blue"]);
    assert_eq!(cni_tests::rules::naming(&sb.node(), "10.58.0.2"), [] as [String; 0]);
    assert!(!Path::new("/var/lib/cni/networks/blue/10.58.0.2").exists());
    assert_eq!(shown(sb, &["leaks", "--unrecorded"]), [] as [serde_json::Value; 0]);
}

fn refusals(sb: &Sandbox) {
    network("red", 59, &json!({}), &[]);
    let _ab = attach(sb, "red", "ab1");
    let gone = attach(sb, "red", "ab2");
    refused(sb, &["connect", "red", "ab"], &["\"ab\" may mean container ab1 or ab2"]);
    refused(sb, &["connect", "nosuch", "ab1"], &["\"nosuch\"", "red"]);
    gone.delete();
    refused(sb, &["connect", "red", "ab2"], &["ab2", "no namespace any more", "/run/netns/ab2"]);
}
