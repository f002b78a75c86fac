//! SPEC.md sections 2 "Errors" and 5 "Error": the exit code and the error object.

use serde_json::{Value, json};

use super::requirement::{ALL, CHAINED, INTERFACE, Requirement, Section};
use super::subject::Subject;

/// All of this subject.
pub(super) fn requirements() -> Vec<Requirement> {
    let exit = Section("2 Errors");
    let mut all = vec![
        exit.must("must_exit_0_on_success", "success is exit 0", &ALL, success),
        exit.must("must_exit_non_zero_on_failure", "failure is another exit code", &ALL, failure),
        exit.should(
            "should_output_an_error_object",
            "one JSON object with `code` and `msg` on stdout",
            &ALL,
            object_of_each,
        ),
    ];
    all.extend(codes());
    all
}

/// The error object and its codes.
fn codes() -> Vec<Requirement> {
    let object = Section("5 Error");
    vec![
        object
            .should(
                "should_carry_the_config_s_version",
                "`cniVersion` of the error is the configuration's",
                &ALL,
                version_of_error,
            )
            .since("1.0.0"),
        object.must(
            "must_not_invent_codes_below_100",
            "codes to 99 are those of the specification",
            &ALL,
            reserved_codes,
        ),
        object.should("should_be_1_for_an_unknown_version", "code 1: incompatible version", &ALL, unknown_version),
        object
            .should(
                "should_be_4_for_a_bad_variable",
                "code 4: an environment variable is missing or malformed",
                &ALL,
                |s| bad_variables(s, false),
            )
            .since("1.0.0"),
        object
            .must("must_name_the_bad_variable", "with code 4 the message has the variable's name", &ALL, |s| {
                bad_variables(s, true);
            })
            .since("1.0.0"),
        object
            .should("should_be_5_when_stdin_can_t_be_read", "code 5: input or output fails", &ALL, unreadable)
            .since("1.0.0"),
        object
            .should("should_be_6_for_what_isn_t_json", "code 6: the configuration can't be decoded", &ALL, undecodable)
            .since("1.0.0"),
        object
            .should(
                "should_be_7_for_an_invalid_name",
                "code 7: the network's name breaks the grammar",
                &ALL,
                invalid_name,
            )
            .since("1.0.0"),
    ]
}

fn success(s: &Subject<'_>) {
    let done = s.attached("c1");
    assert_eq!(s.del(&done).code, Some(0));
}

/// Calls that can't succeed, with what is wrong in them.
fn failing(s: &Subject<'_>) -> Vec<(&'static str, cni_tests::Call)> {
    let chain = s.chain();
    let mut at = s.container("c1");
    let ready = s.ready(&chain, &mut at);
    let conf = |edit: fn(&mut Value)| {
        let mut conf = json!({"cniVersion": s.version, "name": "testnet", "type": s.plugin});
        edit(&mut conf);
        ready.clone().conf(&conf)
    };
    let mut calls = vec![
        ("an unknown verb", ready.clone().env("CNI_COMMAND", "FOO")),
        ("a missing variable", ready.clone().without("CNI_IFNAME")),
        ("broken JSON", ready.clone().stdin("{")),
        ("an invalid name", conf(|c| c["name"] = "-".into())),
        ("an unknown version", conf(|c| c["cniVersion"] = "9.9.9".into())),
    ];
    if INTERFACE.contains(&s.plugin) {
        s.sb.fake("silent", "exit 1");
        calls.push(("no such namespace", ready.clone().env("CNI_NETNS", "/run/netns/none")));
        calls.push(("an IPAM plugin that isn't there", conf(|c| c["ipam"] = json!({"type": "nobody"}))));
        calls.push(("an IPAM plugin that says nothing", conf(|c| c["ipam"] = json!({"type": "silent"}))));
    }
    if CHAINED.contains(&s.plugin) && s.plugin != "tuning" {
        calls.push((
            "no previous result",
            conf(|c| {
                c["runtimeConfig"] = json!({"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "tcp"}]});
            }),
        ));
    }
    calls
}

fn failure(s: &Subject<'_>) {
    for (what, call) in failing(s) {
        let outcome = call.run();
        assert!(!outcome.ok(), "{what}: {outcome}");
    }
}

fn object_of_each(s: &Subject<'_>) {
    failing(s).iter().for_each(|(_, call)| drop(call.run().error()));
}

fn version_of_error(s: &Subject<'_>) {
    for (what, call) in
        failing(s).into_iter().filter(|(what, _)| !matches!(*what, "broken JSON" | "an unknown version"))
    {
        let error = call.run().error();
        assert_eq!(error.version.as_deref(), Some(s.version), "{what}: {error:?}");
    }
}

fn reserved_codes(s: &Subject<'_>) {
    for (what, call) in failing(s) {
        let code = call.run().error().code;
        assert!(matches!(code, 1..=7 | 11 | 50 | 51) || code >= 100, "{what}: code {code}");
    }
}

fn unknown_version(s: &Subject<'_>) {
    let chain = s.chain();
    let ready = s.ready(&chain, &mut s.container("c1"));
    let conf = json!({"cniVersion": "9.9.9", "name": "testnet", "type": s.plugin});
    for verb in ["ADD", "DEL"] {
        assert_eq!(ready.clone().env("CNI_COMMAND", verb).conf(&conf).run().error().code, 1);
    }
}

fn bad_variables(s: &Subject<'_>, named: bool) {
    let chain = s.chain();
    let ready = s.ready(&chain, &mut s.container("c1"));
    for (key, value) in [
        ("CNI_CONTAINERID", ""),
        ("CNI_IFNAME", ""),
        ("CNI_NETNS", ""),
        ("CNI_CONTAINERID", "-x"),
        ("CNI_IFNAME", "a/b"),
        ("CNI_COMMAND", "FOO"),
    ] {
        let error = ready.clone().env(key, value).run().error();
        assert_eq!(error.code, 4, "{key}={value:?}: {error:?}");
        assert!(!named || error.text().contains(key), "{key}={value:?}: {error:?}");
    }
}

/// A directory can be opened, and not read.
fn unreadable(s: &Subject<'_>) {
    let chain = s.chain();
    let ready = s.ready(&chain, &mut s.container("c1"));
    s.sb.fake("from-a-directory", &format!("exec {} </", s.sb.dir().join(s.plugin).display()));
    let wrapper = std::path::Path::new(cni_tests::sandbox::FAKES).join("from-a-directory");
    assert_eq!(ready.by(wrapper).run().error().code, 5);
}

fn undecodable(s: &Subject<'_>) {
    let chain = s.chain();
    let ready = s.ready(&chain, &mut s.container("c1"));
    for text in ["", "{", "[]", "\"text\"", "{\"name\": 7}"] {
        assert_eq!(ready.clone().stdin(text).run().error().code, 6, "{text}");
    }
}

fn invalid_name(s: &Subject<'_>) {
    let chain = s.chain();
    let ready = s.ready(&chain, &mut s.container("c1"));
    for name in ["", "-x", "a b", "a/b", ".", "\u{e9}"] {
        let conf = json!({"cniVersion": s.version, "name": name, "type": s.plugin});
        assert_eq!(ready.clone().conf(&conf).run().error().code, 7, "{name:?}");
    }
}
