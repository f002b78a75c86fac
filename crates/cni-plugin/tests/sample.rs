//! The sample plugin, built by cargo as an example and run as a runtime runs it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // A test that fails panics.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// The executable, next to the tests. `cargo test` of a whole package builds its examples too.
fn sample() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let sample = test.parent().and_then(Path::parent).expect("target/PROFILE/deps").join("examples/sample");
    assert!(sample.exists(), "{} is missing: `cargo test --test` does not build examples", sample.display());
    sample
}

fn call(verb: &str, id: &str, conf: &Value) -> Output {
    let mut child = Command::new(sample())
        .env_clear()
        .envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0"), ("CNI_PATH", "/nowhere")])
        .env("CNI_NETNS", "/run/netns/not-there")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn conf(directory: &Path) -> Value {
    json!({"cniVersion": "1.1.0", "name": "net", "type": "sample", "directory": directory, "prevResult": {
        "cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/not-there"}],
        "ips": [{"address": "10.0.0.2/24", "interface": 0}, {"address": "fd00::2/64", "interface": 0}]}})
}

fn succeeds(verb: &str, id: &str, conf: &Value) -> String {
    let output = call(verb, id, conf);
    assert!(output.status.success() && output.stderr.is_empty(), "{verb}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn error(verb: &str, conf: &Value) -> (u64, String) {
    let output = call(verb, "c1", conf);
    assert_eq!(output.status.code(), Some(1), "{verb}: {output:?}");
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    (object["code"].as_u64().unwrap(), object["msg"].as_str().unwrap().to_owned())
}

/// The texts of the files in the directory.
fn texts(directory: &Path) -> Vec<String> {
    let mut texts: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    texts.sort();
    texts
}

#[test]
fn a_life() {
    let directory = tempfile::tempdir().unwrap();
    let conf = conf(directory.path());
    succeeds("STATUS", "", &conf);
    let result: Value = serde_json::from_str(&succeeds("ADD", "c1", &conf)).unwrap();
    assert_eq!(result["ips"][1]["address"], "fd00::2/64");
    assert_eq!(texts(directory.path()), ["c1 10.0.0.2 fd00::2\n"]);
    succeeds("CHECK", "c1", &conf);
    let file = fs::read_dir(directory.path()).unwrap().next().unwrap().unwrap().path();
    fs::write(&file, "c1 10.0.0.9\n").unwrap();
    let (code, msg) = error("CHECK", &conf);
    assert!(code == 999 && msg.contains(file.to_str().unwrap()) && msg.contains("10.0.0.9"), "{msg}");
    for _ in 0..2 {
        succeeds("DEL", "c1", &conf);
        assert_eq!(texts(directory.path()), [""; 0]);
    }
}

#[test]
fn gc_keeps_the_valid_ones_and_other_networks() {
    let directory = tempfile::tempdir().unwrap();
    let mut conf = conf(directory.path());
    for id in ["c1", "c2"] {
        succeeds("ADD", id, &conf);
    }
    conf["name"] = "other".into();
    succeeds("ADD", "c3", &conf);
    conf["name"] = "net".into();
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "c2", "ifname": "eth0"}]);
    succeeds("GC", "", &conf);
    assert_eq!(texts(directory.path()), ["c2 10.0.0.2 fd00::2\n", "c3 10.0.0.2 fd00::2\n"]);
}

#[test]
fn refusals_name_the_key_and_leave_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut conf = conf(directory.path());
    conf["directory"] = "relative".into();
    assert_eq!(error("ADD", &conf), (999, "directory: an absolute path is expected, not \"relative\"".to_owned()));
    conf["directory"] = directory.path().join("absent").to_str().unwrap().into();
    assert_eq!(error("STATUS", &conf).0, 50);
    assert!(error("ADD", &conf).1.contains("absent"));
    conf.as_object_mut().unwrap().remove("prevResult");
    conf["directory"] = directory.path().to_str().unwrap().into();
    assert!(error("ADD", &conf).1.contains("prevResult"));
    assert_eq!(texts(directory.path()), [""; 0]);
}
