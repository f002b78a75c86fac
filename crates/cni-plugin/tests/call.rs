//! Whole calls, with environment, stdin and stdout injected: order of the checks, codes, gates, what is printed.

#![allow(clippy::unwrap_used, clippy::panic)] // A test that fails panics.

mod common;

use common::{call, call_in, vars};

fn conf(version: &str, more: &str) -> String {
    format!(r#"{{"cniVersion":"{version}","name":"net"{more}}}"#)
}

#[test]
fn without_a_verb_it_tells_about_itself() {
    let outcome = call(&[], "");
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, ""));
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(lines[0], "CNI recorder plugin v1.2.3");
    assert_eq!(lines[1], "CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0");
}

#[test]
fn version_prints_one_line_with_the_version_that_was_asked() {
    for (stdin, version) in [
        ("", "1.1.0"),
        ("{", "1.1.0"),
        ("[]", "1.1.0"),
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        (r#"{"CNIVersion":"1.0.0"}"#, "1.0.0"),
        (r#"{"cniVersion":"9.9.9"}"#, "1.1.0"),
        (r#"{"cniVersion":4}"#, "1.1.0"),
    ] {
        let outcome = call(&[("CNI_COMMAND", "VERSION".into())], stdin);
        let versions = r#""supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]"#;
        let expected = format!("{{\"cniVersion\":\"{version}\",{versions}}}\n");
        assert_eq!((outcome.status, outcome.stdout), (0, expected), "{stdin}");
    }
}

#[test]
fn bad_json_outranks_an_unknown_verb_and_a_bad_name_too() {
    assert_eq!(call(&vars("FOO"), "{").error().0, 6);
    assert_eq!(call(&vars("FOO"), "{}").error().0, 7);
    assert_eq!(call(&vars("FOO"), &conf("1.0.0", "")).error(), (4, "unknown CNI_COMMAND: FOO".into()));
    assert_eq!(call(&vars("add"), &conf("1.0.0", "")).error(), (4, "unknown CNI_COMMAND: add".into()));
}

#[test]
fn errors_carry_the_version_of_the_configuration() {
    let error = |version: &str| call(&vars("ADD"), &conf(version, r#","failAfterEffect":true"#)).json();
    assert_eq!(error("0.4.0")["cniVersion"], "0.4.0");
    assert_eq!(error("1.1.0")["cniVersion"], "1.1.0");
    assert_eq!(error("9.9.9")["cniVersion"], "1.1.0");
    assert_eq!(call(&[("CNI_COMMAND", "ADD".into())], &conf("0.4.0", "")).json()["cniVersion"], "0.4.0");
    let unnamed = call(&vars("ADD"), r#"{"cniVersion":"0.4.0","name":"-"}"#);
    assert_eq!((unnamed.error().0, &unnamed.json()["cniVersion"]), (7, &"0.4.0".into()));
}

#[test]
fn verbs_get_what_they_need() {
    let owner = "container c1 (eth0) of network net";
    let outcome = call(&vars("ADD"), &conf("1.1.0", ""));
    assert_eq!((outcome.status, outcome.log), (0, vec![format!("ADD {owner} /run/netns/not-there")]));
    let outcome = call(&vars("CHECK"), &conf("1.1.0", r#","MTU":1400"#));
    assert_eq!((outcome.log, outcome.stdout.as_str()), (vec!["CHECK mtu 1400".to_owned()], ""));
    let stdin = conf("1.1.0", r#","cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]"#);
    assert_eq!(call(&vars("GC"), &stdin).log, [format!("GC [{owner}]")]);
    let without_list = call(&vars("GC"), &conf("1.1.0", ""));
    assert!(without_list.status == 0 && without_list.log.is_empty(), "{without_list:?}");
    assert!(without_list.stderr.contains("cni.dev/valid-attachments"), "{without_list:?}");
    assert_eq!(call(&vars("STATUS"), &conf("1.1.0", "")).log, ["STATUS"]);
    let mut without_netns = vars("DEL");
    without_netns.retain(|(name, _)| *name != "CNI_NETNS");
    assert_eq!(call(&without_netns, &conf("0.1.0", "")).log, [format!("DEL {owner} None without prevResult")]);
}

#[test]
fn verbs_that_a_version_does_not_have_are_refused() {
    for (verb, version) in [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "0.4.0")] {
        let outcome = call(&vars(verb), &conf(version, ""));
        assert_eq!(outcome.error(), (1, format!("config version does not allow {verb}")));
        assert!(outcome.log.is_empty());
    }
}

#[test]
fn a_failed_add_is_taken_back() {
    let outcome = call(&vars("ADD"), &conf("1.0.0", r#","failAfterEffect":true"#));
    assert_eq!(outcome.error(), (999, "failed on purpose".into()));
    assert_eq!(outcome.log.last().map(String::as_str), Some("undone"));
}

#[test]
fn a_result_that_the_version_cannot_tell_is_taken_back() {
    let outcome = call(&vars("ADD"), &conf("0.2.0", r#","noAddress":true"#));
    let (code, msg) = outcome.error();
    assert!(code == 999 && msg.contains("no valid IP addresses"), "{msg}");
    assert_eq!(outcome.log.last().map(String::as_str), Some("undone"));
}

#[test]
fn the_own_namespace_is_refused_by_add_and_none_for_del() {
    let own = std::env::temp_dir();
    let with_netns = |verb: &str, more: &[(&'static str, &str)]| {
        let mut vars = vars(verb);
        vars.retain(|(name, _)| *name != "CNI_NETNS");
        vars.push(("CNI_NETNS", own.display().to_string()));
        vars.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        call_in(&vars, &conf("1.0.0", ""), &own.display().to_string())
    };
    let refused = with_netns("ADD", &[]);
    assert_eq!(refused.error().0, 8);
    assert!(refused.log.is_empty(), "{:?}", refused.log);
    assert_eq!(with_netns("DEL", &[]).log, ["DEL container c1 (eth0) of network net None without prevResult"]);
    for (verb, allowed) in [("ADD", "1"), ("ADD", "true"), ("DEL", "TRUE")] {
        let outcome = with_netns(verb, &[("CNI_NETNS_OVERRIDE", allowed)]);
        assert!(outcome.status == 0 && outcome.log[0].contains(&own.display().to_string()), "{outcome:?}");
    }
    assert_eq!(with_netns("CHECK", &[]).status, 0);
}

#[test]
fn a_wrong_type_is_reported_with_its_field() {
    let (code, msg) = call(&vars("ADD"), &conf("1.0.0", r#","mtu":"1500""#)).error();
    assert_eq!(code, 999);
    assert!(msg.contains("mtu") && msg.contains("\"1500\""), "{msg}");
}

#[test]
fn del_goes_on_with_a_prev_result_that_cannot_be_read() {
    let outcome = call(&vars("DEL"), &conf("1.0.0", r#","prevResult":{"cniVersion":"0.2.0"}"#));
    assert_eq!(outcome.status, 0);
    assert!(outcome.log[0].ends_with("without prevResult"));
    assert!(outcome.stderr.contains("prevResult is ignored"), "{}", outcome.stderr);
    assert_eq!(call(&vars("CHECK"), &conf("1.0.0", r#","prevResult":{"cniVersion":"0.2.0"}"#)).error().0, 999);
}
