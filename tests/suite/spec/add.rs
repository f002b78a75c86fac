//! SPEC.md section 2 "ADD", and section 3's rules about what goes on at the same time.

use std::collections::BTreeSet;

use cni_tests::kernel::{addresses, has_flag, link, link_names, sysctl};
use cni_tests::parallel::at_once;
use cni_tests::{Attachment, Netns, Snapshot};
use serde_json::{Value, json};

use super::requirement::{ALL, CHAINED, INTERFACE, Requirement, Section, VETH};
use super::subject::Subject;
use cni_tests::plugins::tidy;

/// All of this subject.
pub(super) fn requirements() -> Vec<Requirement> {
    let (add, life) = (Section("2 ADD"), Section("3 Lifecycle"));
    vec![
        add.should(
            "should_create_the_interface",
            "`CNI_IFNAME` exists in `CNI_NETNS` afterwards, up and with its address",
            &INTERFACE,
            created,
        ),
        add.should(
            "should_adjust_the_interface",
            "the existing interface is changed as configured",
            &["loopback", "tuning"],
            adjusted,
        )
        .since("0.3.0"),
        add.must("must_output_a_result", "a result on stdout, and nothing else", &ALL, |s| drop(s.attached("c1"))),
        add.must(
            "must_error_if_the_interface_exists",
            "a taken interface name is an error; who had it keeps it",
            &INTERFACE,
            exists,
        )
        .since("1.0.0"),
        add.must(
            "must_handle_prev_result",
            "what came before is in the result",
            &["loopback", "portmap", "firewall", "tuning", "sbr", "vrf"],
            handled,
        )
        .since("0.3.0"),
        life.must("must_work_concurrently", "eight containers at once, each with its own address", &ALL, concurrent)
            .since("1.0.0"),
        life.should(
            "should_keep_state_by_attachment",
            "a container's second interface comes and goes without touching the first",
            &["bridge", "ptp", "macvlan", "ipvlan", "dummy", "tap", "host-local", "portmap", "firewall"],
            by_attachment,
        )
        .since("0.4.0")
        .until("0.4.0"),
    ]
}

fn created(s: &Subject<'_>) {
    let at = s.container("c1");
    let ns = named("c1");
    s.attach(s.chain(), at);
    let eth0 = link(&ns, "eth0").expect("eth0");
    assert!(has_flag(&eth0, "UP"), "{eth0}");
    assert_eq!(addresses(&ns, "eth0"), ["10.77.0.2/24"]);
}

/// A container's namespace, made by [`Subject::container`].
pub(super) fn named(id: &str) -> Netns {
    Netns::existing(id)
}

fn adjusted(s: &Subject<'_>) {
    s.attached("c1");
    let ns = named("c1");
    if s.plugin == "loopback" {
        assert!(has_flag(&link(&ns, "lo").unwrap(), "UP"));
        return;
    }
    assert_eq!(link(&ns, "eth0").unwrap()["mtu"], 1400);
    assert_eq!(sysctl(&ns, "ipv4/conf/eth0/arp_filter").as_deref(), Some("1"));
}

fn exists(s: &Subject<'_>) {
    let mut at = s.container("c1");
    let ns = named("c1");
    ns.sh(&["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other"]);
    let before = Snapshot::of(&[&ns]);
    let outcome = s.ready(&s.chain(), &mut at).run();
    assert!(!outcome.ok(), "{outcome}");
    // An IPAM plugin may have been called and called off.
    Snapshot::of(&[&ns]).same_but(&before, &["/var/lib/cni"]);
}

/// A result that comes from somewhere else, at the subject's version.
pub(super) fn foreign(version: &str) -> Value {
    let mut ip = json!({"address": "10.88.0.8/24", "gateway": "10.88.0.1", "interface": 0});
    if version < "1.0.0" {
        ip["version"] = "4".into();
    }
    json!({
        "cniVersion": version, "ips": [ip], "interfaces": [{"name": "eth7", "mac": "0a:00:00:00:00:07", "sandbox": "/run/netns/c1"}],
        "routes": [{"dst": "10.89.0.0/16"}], "dns": {"nameservers": ["10.88.0.53"]}
    })
}

/// ADD with [`foreign`] as the previous result; its own.
pub(super) fn after_foreign(s: &Subject<'_>) -> Value {
    let chain = s.chain();
    let mut at = s.container("c1");
    if CHAINED.contains(&s.plugin) {
        // The interface that the foreign result speaks of isn't there; the bridge's is.
        s.ready(&chain, &mut at);
    }
    at.capabilities.clear();
    chain.call(s.sb, "ADD", chain.plugins().last().unwrap(), &at, Some(&foreign(s.version))).run().result()
}

fn handled(s: &Subject<'_>) {
    let result = after_foreign(s);
    let list = |key: &str| result[key].as_array().cloned().unwrap_or_default();
    assert!(list("ips").iter().any(|ip| ip["address"] == "10.88.0.8/24"), "{result}");
    assert!(list("interfaces").iter().any(|i| i["name"] == "eth7"), "{result}");
    assert_eq!(result["dns"]["nameservers"], json!(["10.88.0.53"]), "{}", tidy(result.clone()));
}

/// Several rounds on an empty rule set, for the first ones race for what all share.
fn concurrent(s: &Subject<'_>) {
    let chain = s.chain();
    for round in 0..3 {
        let mut all: Vec<Attachment> = (1..=8).map(|n| s.container(&format!("c{round}{n}"))).collect();
        let calls: Vec<_> = all.iter_mut().map(|at| s.ready(&chain, at)).collect();
        let results = at_once(calls.len(), |n| calls[n].run().result());
        if INTERFACE.contains(&s.plugin) || ["host-local", "dhcp"].contains(&s.plugin) {
            let addresses: BTreeSet<String> = results.iter().map(first_address).collect();
            assert_eq!(addresses.len(), all.len(), "each has its own: {addresses:?}");
        }
        for (at, result) in all.iter_mut().zip(results) {
            at.result = Some(result);
        }
        at_once(all.len(), |n| s.call("DEL", &chain, &all[n]).run().silent());
        s.sb.node().sh(&["nft", "flush", "ruleset"]);
    }
}

fn first_address(result: &Value) -> String {
    result["ips"][0]["address"].as_str().unwrap_or_else(|| panic!("no address in {result}")).to_owned()
}

fn by_attachment(s: &Subject<'_>) {
    let keys = if VETH.contains(&s.plugin) { json!({"ipMasq": true}) } else { json!({}) };
    let first = s.attached_to(s.chain_with(&keys), "c1");
    let node = s.sb.node();
    let before = Snapshot::of(&[&node, &named("c1")]);
    let mut second = first.at.clone().on("eth1").publish(&[(8101, 80, "tcp")]);
    // What the bridge before a chained plugin does is not the subject's.
    let result = s.ready(&first.chain, &mut second).run().result();
    second.result = Some(result);
    for plugin in first.chain.plugins().iter().rev() {
        first.chain.call(s.sb, "DEL", plugin, &second, second.result.as_ref()).run().silent();
    }
    Snapshot::of(&[&node, &named("c1")]).same_but(&before, &["last_reserved_ip"]);
    assert!(
        CHAINED.contains(&s.plugin)
            || s.plugin == "host-local"
            || link_names(&named("c1")).contains(&"eth0".to_owned())
    );
}
