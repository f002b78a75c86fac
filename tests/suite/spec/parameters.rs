//! SPEC.md section 2 "Parameters": the environment.

use serde_json::Value;

use super::requirement::{ALL, INTERFACE, Requirement, Section};
use super::subject::Subject;

/// Plugins that call no other one.
const ALONE: [&str; 10] =
    ["loopback", "host-local", "static", "dhcp", "portmap", "firewall", "tuning", "bandwidth", "sbr", "vrf"];

/// All of this subject.
pub(super) fn requirements() -> Vec<Requirement> {
    let env = Section("2 Parameters");
    vec![
        env.must("must_refuse_an_empty_container_id", "no `CNI_CONTAINERID`, no success", &ALL, empty_id)
            .since("0.4.0"),
        env.must(
            "must_refuse_a_malformed_container_id",
            "IDs begin with a letter or digit, then also `_`, `.`, `-`",
            &ALL,
            malformed_id,
        )
        .since("1.0.0"),
        env.must(
            "must_accept_any_well_formed_container_id",
            "what the grammar allows is accepted",
            &ALL,
            well_formed_id,
        )
        .since("1.0.0"),
        env.must(
            "must_refuse_an_unusable_ifname",
            "an interface name that can't be used is an error",
            &ALL,
            unusable_ifname,
        )
        .since("0.3.0"),
        env.must(
            "must_use_the_given_ifname",
            "the container's interface is called `CNI_IFNAME`",
            &INTERFACE,
            given_ifname,
        )
        .since("0.3.0"),
        env.must("must_do_without_cni_path", "`CNI_PATH` is optional where nothing is delegated", &ALONE, no_path)
            .since("1.0.0"),
        env.must("must_do_without_cni_args", "`CNI_ARGS` is optional", &ALL, |s| drop(s.attached("c1"))),
    ]
}

/// Each verb that has an attachment, refused with a spoilt variable.
fn refused(s: &Subject<'_>, key: &str, values: &[&str]) {
    let done = s.attached("c1");
    for value in values {
        for verb in ["ADD", "CHECK", "DEL"].iter().filter(|v| **v != "CHECK" || s.version >= "0.4.0") {
            let outcome = s.call(verb, &done.chain, &done.at).env(key, value).run();
            assert!(!outcome.ok(), "{key}={value:?} is accepted: {outcome}");
        }
    }
}

fn empty_id(s: &Subject<'_>) {
    refused(s, "CNI_CONTAINERID", &[""]);
}

fn malformed_id(s: &Subject<'_>) {
    refused(s, "CNI_CONTAINERID", &["-c1", ".c1", "_c1", "c 1", "c/1", "../c1", "c1\n", "\u{e9}c1"]);
}

fn well_formed_id(s: &Subject<'_>) {
    let chain = s.chain();
    let long = format!("9{}", "aZ0_.-".repeat(20));
    for (number, id) in ["c", "0", "A.b_c-9", &long].into_iter().enumerate() {
        let mut at = s.container(&format!("c{number}"));
        id.clone_into(&mut at.id);
        let result = s.ready(&chain, &mut at).run().result();
        at.result = Some(result);
        s.call("DEL", &chain, &at).run().silent();
    }
}

fn unusable_ifname(s: &Subject<'_>) {
    let chain = s.chain();
    let ready = s.ready(&chain, &mut s.container("c1"));
    for name in ["", "sixteen-letters-", "a/b", "a b", ".", ".."] {
        let outcome = ready.clone().env("CNI_IFNAME", name).run();
        assert!(!outcome.ok(), "{name:?} is accepted: {outcome}");
    }
}

fn given_ifname(s: &Subject<'_>) {
    let at = s.container("c1").on("fifteen-letters");
    let done = s.attach(s.chain(), at);
    let ns = cni_tests::netns::sh(&["ip", "-n", "c1", "-br", "link", "show", "dev", "fifteen-letters"]);
    assert!(ns.contains("fifteen-letters"));
    let result = done.at.result.unwrap();
    let named = |i: &Value| i["name"] == "fifteen-letters";
    assert!(result["interfaces"].as_array().is_some_and(|list| list.iter().any(named)), "{result}");
}

fn no_path(s: &Subject<'_>) {
    let chain = s.chain();
    let mut at = s.container("c1");
    let result = s.ready(&chain, &mut at).without("CNI_PATH").run().result();
    at.result = Some(result);
    for verb in ["CHECK", "DEL"] {
        s.call(verb, &chain, &at).without("CNI_PATH").run().silent();
    }
}
