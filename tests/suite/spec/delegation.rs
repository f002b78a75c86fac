//! SPEC.md section 4: what an interface plugin does with its IPAM plugin.

use std::fs;
use std::path::Path;

use cni_tests::Chain;
use cni_tests::sandbox::FAKES;
use serde_json::{Value, json};

use super::requirement::{INTERFACE, Requirement, Section};
use super::subject::{Subject, ipam};

/// All of this subject.
pub(super) fn requirements() -> Vec<Requirement> {
    let section = Section("4 Delegation");
    let (must, should) = (
        |id, says, proof| section.must(id, says, &INTERFACE, proof),
        |id, says, proof| section.should(id, says, &INTERFACE, proof),
    );
    vec![
        must("must_pass_the_environment", "the delegate gets every variable that the plugin got", environment),
        should("should_pass_the_configuration", "the delegate gets the complete configuration", configuration),
        should("should_search_cni_path", "the delegate is searched in `CNI_PATH`, in its order", searched)
            .since("1.0.0"),
        should("should_pass_on_stderr", "what the delegate writes to stderr comes out", |s| {
            stderr(s, "true");
        })
        .since("1.0.0"),
        should("should_pass_on_stderr_of_a_failure", "what a failing delegate writes to stderr comes out too", |s| {
            stderr(s, "false");
        })
        .since("1.0.0"),
        must("must_execute_delegates_on_check", "CHECK calls the delegate's", |s| executed(s, "CHECK")).since("1.0.0"),
        must("must_execute_delegates_on_del", "DEL calls the delegate's", |s| executed(s, "DEL")).since("1.0.0"),
        must("must_execute_delegates_on_gc", "GC calls the delegate's", |s| executed(s, "GC")).since("1.1.0"),
        should("should_return_an_error_of_check", "the delegate's error is the plugin's", |s| {
            returned(s, "CHECK");
        })
        .since("1.0.0"),
        should("should_return_an_error_of_del", "the delegate's error is the plugin's", |s| {
            returned(s, "DEL");
        })
        .since("1.0.0"),
        should("should_return_an_error_of_gc", "the delegate's error is the plugin's", |s| {
            returned(s, "GC");
        })
        .since("1.1.0"),
        should("should_del_after_a_failed_add", "a delegate whose ADD failed gets a DEL", del_after_failure)
            .since("1.0.0"),
    ]
}

/// A network whose IPAM plugin notes what it gets, runs `script`, and then is host-local.
fn noting(s: &Subject<'_>, script: &str) -> Chain {
    if !s.sb.has("host-local") {
        cni_tests::verdict::skip("no host-local in the directory under test");
    }
    let note = "cat >/run/stdin-$CNI_COMMAND; env >/run/env-$CNI_COMMAND; echo $CNI_COMMAND >>/run/verbs";
    s.sb.fake(
        "noting",
        &format!("{note}\n{script}\nexec {}/host-local </run/stdin-$CNI_COMMAND", s.sb.dir().display()),
    );
    let mut ipam = ipam();
    ipam["type"] = "noting".into();
    s.chain_with(&json!({"ipam": ipam, "com.example/more": {"a": [1, 2]}}))
}

fn environment(s: &Subject<'_>) {
    let chain = noting(s, "");
    s.ready(&chain, &mut s.container("c1"))
        .env("CNI_ARGS", "IgnoreUnknown=1;A=b")
        .env("UNRELATED", "kept")
        .run()
        .result();
    let env = fs::read_to_string("/run/env-ADD").unwrap();
    let path = format!("CNI_PATH={}:{FAKES}", s.sb.dir().display());
    for line in [
        "CNI_COMMAND=ADD",
        "CNI_CONTAINERID=c1",
        "CNI_IFNAME=eth0",
        "CNI_NETNS=/run/netns/c1",
        "CNI_ARGS=IgnoreUnknown=1;A=b",
        "UNRELATED=kept",
        &path,
    ] {
        assert!(env.lines().any(|l| l == line), "{line} isn't in {env}");
    }
}

fn configuration(s: &Subject<'_>) {
    let done = s.attached_to(noting(s, ""), "c1");
    let said: Value = serde_json::from_str(&fs::read_to_string("/run/stdin-ADD").unwrap()).unwrap();
    let mut expected = done.chain.plugins()[0].clone();
    expected["name"] = "testnet".into();
    expected["cniVersion"] = s.version.into();
    assert_eq!(said, expected);
}

fn searched(s: &Subject<'_>) {
    let chain = noting(s, "");
    fs::create_dir_all("/run/first").unwrap();
    fs::copy(Path::new(FAKES).join("noting"), "/run/first/noting").unwrap();
    fs::write(Path::new(FAKES).join("noting"), "#!/bin/sh\nexit 9\n").unwrap();
    s.ready(&chain, &mut s.container("c1")).env("CNI_PATH", &format!("/run/none:/run/first:{FAKES}")).run().result();
}

fn stderr(s: &Subject<'_>, succeeds: &str) {
    let chain = noting(
        s,
        &format!("echo a word of warning >&2; {succeeds} || {{ echo '{{\"code\":103,\"msg\":\"no\"}}'; exit 1; }}"),
    );
    let outcome = s.ready(&chain, &mut s.container("c1")).run();
    assert_eq!(outcome.ok(), succeeds == "true", "{outcome}");
    assert!(outcome.stderr.contains("a word of warning"), "{outcome}");
}

fn asked(s: &Subject<'_>, script: &str, verb: &str) -> cni_tests::Outcome {
    let done = s.attached_to(noting(s, script), "c1");
    match verb {
        "GC" => s.unattached(verb, &done.chain, &json!({"cni.dev/attachments": []})).run(),
        _ => s.call(verb, &done.chain, &done.at).run(),
    }
}

fn executed(s: &Subject<'_>, verb: &str) {
    asked(s, "", verb).silent();
    assert_eq!(fs::read_to_string("/run/verbs").unwrap(), format!("ADD\n{verb}\n"));
}

fn returned(s: &Subject<'_>, verb: &str) {
    let script = format!("[ $CNI_COMMAND != {verb} ] || {{ echo '{{\"code\":103,\"msg\":\"not now\"}}'; exit 1; }}");
    asked(s, &script, verb).error().names(&["not now"]);
}

fn del_after_failure(s: &Subject<'_>) {
    let chain = noting(s, r#"[ $CNI_COMMAND = DEL ] && exit 0; echo '{"code":103,"msg":"no"}'; exit 1"#);
    assert_eq!(s.ready(&chain, &mut s.container("c1")).run().error().code, 103);
    assert_eq!(fs::read_to_string("/run/verbs").unwrap(), "ADD\nDEL\n");
}
