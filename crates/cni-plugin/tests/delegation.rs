//! Calling other plugins: where they are found, what they get, how their failures are reported. The delegates are scripts.

#![allow(clippy::unwrap_used, clippy::panic)] // A test that fails panics.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{Outcome, call, vars};
use tempfile::TempDir;

/// A directory with one plugin, `ipam`, that writes its verbs into `verbs` beside it and then does as `script` says on ADD.
fn delegate(script: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("verbs");
    let text =
        format!("#!/bin/sh\necho $CNI_COMMAND >>{}\n[ $CNI_COMMAND = ADD ] || exit 0\n{script}\n", log.display());
    executable(&dir.path().join("ipam"), &text);
    dir
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn add(path: &str, plugin: &str) -> Outcome {
    let mut vars = vars("ADD");
    vars.retain(|(name, _)| *name != "CNI_PATH");
    vars.push(("CNI_PATH", path.to_owned()));
    vars.push(("MARKER", "kept".to_owned()));
    vars.push(("PATH", "/usr/bin:/bin".to_owned()));
    call(&vars, &format!(r#"{{"cniVersion":"1.0.0","name":"net","ipam":{{"type":"{plugin}"}}}}"#))
}

fn add_with(dir: &TempDir) -> Outcome {
    add(&dir.path().display().to_string(), "ipam")
}

fn verbs(dir: &TempDir) -> Vec<String> {
    fs::read_to_string(dir.path().join("verbs")).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn the_delegate_gets_stdin_and_environment_and_its_result_is_used() {
    let dir = delegate(
        r#"cat >"$(dirname $0)/stdin"; echo "{\"ips\":[{\"address\":\"10.0.0.2/24\"}],\"dns\":{\"domain\":\"$MARKER\"}}""#,
    );
    let outcome = add_with(&dir);
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert_eq!(outcome.json()["ips"][0]["address"], "10.0.0.2/24");
    assert_eq!(outcome.json()["dns"]["domain"], "kept");
    let stdin = fs::read_to_string(dir.path().join("stdin")).unwrap();
    assert_eq!(stdin, r#"{"cniVersion":"1.0.0","name":"net","ipam":{"type":"ipam"}}"#);
    assert_eq!(verbs(&dir), ["ADD"]);
}

#[test]
fn the_error_of_the_delegate_is_reported_and_del_follows() {
    let cases = [
        (r#"echo '{"code": 103, "msg": "m", "details": "d"}'; exit 1"#, 103, "m"),
        ("echo out of paper >&2; exit 3", 999, "out of paper"),
        ("exit 3", 999, "exit status: 3"),
        ("echo garbage; exit 1", 999, "garbage"),
        (r#"echo '{"code": 1'; exit 1"#, 999, "error parsing"),
        ("echo garbage", 999, "no JSON result"),
        (r#"printf '{"ips": [{"addr'"#, 999, "no JSON result"),
        ("true", 999, "no JSON result"),
        (r#"echo '{"ips": []}'"#, 999, "missing IP config"),
        (r#"echo '{"cniVersion": "7.0.0"}'"#, 999, "7.0.0"),
    ];
    for (script, code, part) in cases {
        let dir = delegate(script);
        let (found, msg) = add_with(&dir).error();
        assert!(found == code && msg.contains(part), "{script}: {found} {msg}");
        assert_eq!(verbs(&dir), ["ADD", "DEL"], "{script}");
    }
}

#[test]
fn the_first_regular_file_in_the_path_is_taken() {
    let (empty, good) = (tempfile::tempdir().unwrap(), delegate(r#"echo '{"ips":[{"address":"10.0.0.2/24"}]}'"#));
    fs::create_dir(empty.path().join("ipam")).unwrap();
    let path = format!("{}:{}", empty.path().display(), good.path().display());
    assert_eq!(add(&path, "ipam").status, 0);
}

#[test]
fn names_that_are_paths_are_refused_and_nothing_is_started() {
    let dir = delegate("true");
    for bad in ["../x", "/bin/true", "a/b", "..", "."] {
        let (code, msg) = add(&dir.path().display().to_string(), bad).error();
        assert!(code == 999 && msg.contains("invalid plugin name") && msg.contains(bad), "{msg}");
    }
    let (_, msg) = add("/a:/b", "nosuch").error();
    assert!(msg.contains("\"nosuch\"") && msg.contains("[/a /b]"), "{msg}");
    assert!(verbs(&dir).is_empty());
}

#[test]
fn an_executable_that_is_being_written_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ipam");
    // Only a binary can be "text file busy"; a script is opened by its interpreter.
    fs::copy("/bin/true", &file).unwrap();
    let writer = fs::OpenOptions::new().append(true).open(&file).unwrap();
    let closer = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        drop(writer);
    });
    let (_, msg) = add(&dir.path().display().to_string(), "ipam").error();
    closer.join().unwrap();
    assert!(msg.contains("no JSON result"), "it ran: {msg}");
}

#[test]
fn a_configuration_larger_than_a_pipe_gets_through() {
    let dir = delegate(r#"cat >/dev/null; echo '{"ips":[{"address":"10.0.0.2/24"}]}'"#);
    let mut vars = vars("ADD");
    vars.retain(|(name, _)| *name != "CNI_PATH");
    vars.push(("CNI_PATH", dir.path().display().to_string()));
    vars.push(("PATH", "/usr/bin:/bin".to_owned()));
    let padding = "x".repeat(1 << 20);
    let stdin = format!(r#"{{"cniVersion":"1.0.0","name":"net","ipam":{{"type":"ipam"}},"padding":"{padding}"}}"#);
    assert_eq!(call(&vars, &stdin).status, 0);
}
