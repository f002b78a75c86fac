//! SPEC.md sections 1 and 2: the configuration and the environment.

use serde_json::{Value, json};

use super::requirement::{ALL, INTERFACE, Requirement, Section};
use super::subject::Subject;

/// Plugins that call no other one.
const ALONE: [&str; 6] = ["loopback", "host-local", "static", "portmap", "firewall", "tuning"];

/// All of this subject.
pub(super) fn requirements() -> Vec<Requirement> {
    configuration().into_iter().chain(environment()).collect()
}

fn configuration() -> Vec<Requirement> {
    let conf = Section("1 Configuration");
    vec![
        conf.must(
            "config::must_refuse_a_type_that_is_a_path",
            "`ipam.type` with `/` is an error",
            &INTERFACE,
            type_is_a_path,
        )
        .since("1.0.0"),
        conf.should(
            "config::should_ignore_args_not_understood",
            "unknown keys in `args` do no harm",
            &ALL,
            unknown_args,
        )
        .since("0.4.0")
        .until("0.4.0"),
        conf.should("config::should_respect_dns", "the configuration's `dns` reaches the result", &INTERFACE, dns)
            .since("1.0.0"),
        conf.should(
            "config::should_respect_ip_masq",
            "`ipMasq` makes rules for the container's address",
            &INTERFACE,
            masquerade,
        )
        .since("1.0.0"),
    ]
}

fn environment() -> Vec<Requirement> {
    let env = Section("2 Parameters");
    vec![
        env.must("parameters::must_refuse_an_empty_container_id", "no `CNI_CONTAINERID`, no success", &ALL, empty_id)
            .since("0.4.0"),
        env.must(
            "parameters::must_refuse_a_malformed_container_id",
            "IDs begin with a letter or digit, then also `_`, `.`, `-`",
            &ALL,
            malformed_id,
        )
        .since("1.0.0"),
        env.must(
            "parameters::must_accept_any_well_formed_container_id",
            "what the grammar allows is accepted",
            &ALL,
            well_formed_id,
        )
        .since("1.0.0"),
        env.must(
            "parameters::must_refuse_an_unusable_ifname",
            "an interface name that can't be used is an error",
            &ALL,
            unusable_ifname,
        )
        .since("0.3.0"),
        env.must(
            "parameters::must_use_the_given_ifname",
            "the container's interface is called `CNI_IFNAME`",
            &INTERFACE,
            given_ifname,
        )
        .since("0.3.0"),
        env.must(
            "parameters::must_do_without_cni_path",
            "`CNI_PATH` is optional where nothing is delegated",
            &ALONE,
            no_path,
        )
        .since("1.0.0"),
        env.must("parameters::must_do_without_cni_args", "`CNI_ARGS` is optional", &ALL, |s| drop(s.attached("c1"))),
    ]
}

fn type_is_a_path(s: &Subject<'_>) {
    let chain = s.chain_with(&json!({"ipam": {"type": "../cni/host-local", "subnet": "10.77.0.0/24"}}));
    assert!(!s.ready(&chain, &mut s.container("c1")).run().ok());
}

fn unknown_args(s: &Subject<'_>) {
    s.attached_to(s.chain_with(&json!({"args": {"com.example": {"a": [1, {"b": null}]}, "x": 7}})), "c1");
}

fn dns(s: &Subject<'_>) {
    let dns = json!({"nameservers": ["10.77.0.53"], "domain": "example.org", "search": ["example.org"], "options": ["ndots:2"]});
    let done = s.attached_to(s.chain_with(&json!({"dns": dns})), "c1");
    assert_eq!(done.at.result.unwrap()["dns"], dns);
}

fn masquerade(s: &Subject<'_>) {
    let done = s.attached_to(s.chain_with(&json!({"ipMasq": true})), "c1");
    assert!(!cni_tests::rules::naming(&s.sb.node(), &done.at.ip(false)).is_empty());
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
