//! SPEC.md section 2 "CHECK", which came with 0.4.0.

use cni_tests::{Chain, Outcome, netns::sh};
use serde_json::json;

use super::add::named;
use super::requirement::{ALL, INTERFACE, Requirement, Section, VETH};
use super::subject::{Attached, Subject, ipam};

/// Plugins that make packet rules.
const RULES: [&str; 4] = ["bridge", "ptp", "portmap", "firewall"];

/// All of this subject.
pub(super) fn requirements() -> Vec<Requirement> {
    let all = expectations().into_iter().chain(damages());
    all.map(|requirement| requirement.since("0.4.0")).collect()
}

const CHECK: Section = Section("2 CHECK");

/// What has to pass, or to be reported.
fn expectations() -> Vec<Requirement> {
    vec![
        CHECK.must(
            "must_consult_prev_result",
            "an address in `prevResult` that the interface hasn't is an error",
            &INTERFACE,
            consults,
        ),
        CHECK.must(
            "must_allow_later_changes",
            "what a later plugin adds or changes (routes, addresses, MAC, MTU) is no error",
            &INTERFACE,
            later_changes,
        ),
        CHECK.must("must_pass_right_after_add", "an untouched attachment passes at once, IPv6 included", &ALL, at_once),
        CHECK.should(
            "should_call_check_of_delegates",
            "the IPAM plugin is asked too, and its error is the answer",
            &INTERFACE,
            delegates,
        ),
        CHECK.must(
            "must_print_nothing_or_an_error",
            "no output on success, else one error object",
            &ALL,
            nothing_or_an_error,
        ),
    ]
}

/// What has to be noticed.
fn damages() -> Vec<Requirement> {
    vec![
        CHECK.should("should_miss_the_interface", "a missing interface is an error", &INTERFACE, |s| {
            damaged(s, &["ip", "-n", "c1", "link", "del", "eth0"]);
        }),
        CHECK.should("should_miss_an_address", "a missing address is an error", &INTERFACE, |s| {
            damaged(s, &["ip", "-n", "c1", "addr", "del", "10.77.0.2/24", "dev", "eth0"]);
        }),
        CHECK.should("should_miss_a_route", "a missing route is an error", &INTERFACE, |s| {
            damaged(s, &["ip", "-n", "c1", "route", "del", "10.6.0.0/16"]);
        }),
        CHECK.should(
            "should_notice_a_dead_interface",
            "an interface that is down is an error",
            &["bridge", "ptp", "macvlan", "ipvlan", "vlan", "dummy", "host-device", "tap", "loopback"],
            dead,
        ),
        CHECK.should("should_miss_packet_rules", "missing firewall rules are an error", &RULES, rules_gone),
        CHECK.should(
            "should_miss_a_reservation",
            "a missing reservation is an error",
            &["host-local"],
            reservation_gone,
        ),
        CHECK.should(
            "should_notice_what_makes_unreachable",
            "a container that can't be reached is an error: the node's end is down",
            &VETH,
            unreachable,
        ),
    ]
}

/// A failed CHECK has printed an error.
fn complains(outcome: &Outcome) {
    assert!(!outcome.ok(), "it passes: {outcome}");
    outcome.error();
}

fn consults(s: &Subject<'_>) {
    let mut done = s.attached("c1");
    s.check(&done).silent();
    done.at.result.as_mut().unwrap()["ips"][0]["address"] = "10.77.0.99/24".into();
    complains(&s.check(&done));
}

fn later_changes(s: &Subject<'_>) {
    let mut done = s.attached("c1");
    for words in ["route add 10.9.0.0/16 dev eth0", "addr add 10.200.0.1/32 dev eth0", "link set eth0 mtu 1400"] {
        sh(&["ip", "-n", "c1"].into_iter().chain(words.split(' ')).collect::<Vec<_>>());
    }
    // An ipvlan link has its master's.
    let mac = (s.plugin != "ipvlan").then_some("0a:00:00:00:00:99");
    if let Some(mac) = mac {
        sh(&["ip", "-n", "c1", "link", "set", "eth0", "address", mac]);
    }
    // As a later plugin would have reported it.
    for interface in done.at.result.as_mut().unwrap()["interfaces"].as_array_mut().unwrap() {
        if interface["name"] == "eth0" {
            if let Some(mac) = mac {
                interface["mac"] = mac.into();
            }
            if interface.get("mtu").is_some() {
                interface["mtu"] = 1400.into();
            }
        }
    }
    s.check(&done).silent();
}

fn damaged(s: &Subject<'_>, deed: &[&str]) {
    let done = s.attached("c1");
    s.check(&done).silent();
    sh(deed);
    complains(&s.check(&done));
}

fn dead(s: &Subject<'_>) {
    let interface = if s.plugin == "loopback" { "lo" } else { "eth0" };
    damaged(s, &["ip", "-n", "c1", "link", "set", interface, "down"]);
}

fn unreachable(s: &Subject<'_>) {
    let done = s.attached("c1");
    s.check(&done).silent();
    let interfaces = done.at.result.as_ref().unwrap()["interfaces"].clone();
    let host = interfaces.as_array().unwrap().iter().filter_map(|i| i["name"].as_str()).find(|n| n.starts_with("veth"));
    sh(&["ip", "link", "set", host.expect("the node's end"), "down"]);
    complains(&s.check(&done));
}

fn rules_gone(s: &Subject<'_>) {
    let keys = if VETH.contains(&s.plugin) { json!({"ipMasq": true}) } else { json!({}) };
    let done = s.attached_to(s.chain_with(&keys), "c1");
    s.check(&done).silent();
    sh(&["nft", "flush", "ruleset"]);
    complains(&s.check(&done));
}

fn reservation_gone(s: &Subject<'_>) {
    let done = s.attached("c1");
    s.check(&done).silent();
    std::fs::remove_file(format!("/var/lib/cni/networks/testnet/{}", done.at.ip(false))).unwrap();
    complains(&s.check(&done));
}

fn at_once(s: &Subject<'_>) {
    let ranges = json!([[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd00:77::/64"}]]);
    let ranges = json!({"type": "host-local", "ranges": ranges, "routes": [{"dst": "10.6.0.0/16"}]});
    let dual: Chain = if INTERFACE.contains(&s.plugin) || s.plugin == "host-local" {
        s.chain_with(&json!({"ipam": ranges}))
    } else {
        s.chain()
    };
    let done: Attached = s.attached_to(dual, "c1");
    s.check(&done).silent();
    // The bridge's own DAD, the neighbours' tables and the rest go on in the background.
    assert!(named("c1").holds(&["ip", "link", "show", "lo"]));
}

fn nothing_or_an_error(s: &Subject<'_>) {
    let outcome = s.check(&s.attached("c1"));
    if outcome.ok() { outcome.silent() } else { drop(outcome.error()) }
}

fn delegates(s: &Subject<'_>) {
    let script = r#"if [ $CNI_COMMAND = CHECK ]; then echo '{"code":103,"msg":"lease lost"}'; exit 1; fi"#;
    s.sb.fake("forgetful", &format!("{script}\nexec {}/host-local", s.sb.dir().display()));
    let mut ipam = ipam();
    ipam["type"] = "forgetful".into();
    let done = s.attached_to(s.chain_with(&json!({"ipam": ipam})), "c1");
    s.check(&done).error().names(&["lease lost"]);
}
