//! cninet, the operator's command: beside the plugins in the directory under test. Skipped where there is none.

pub(crate) mod cnitool;
pub(crate) mod connect;
pub(crate) mod create;
pub(crate) mod help;
pub(crate) mod leaks;
pub(crate) mod look;
pub(crate) mod reload;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cni_tests::kernel::array;
use cni_tests::{Call, Netns, Outcome, Sandbox, verdict};
use serde_json::{Value, json};

/// Where networks are; the sandbox has an empty one.
const NETWORKS: &str = "/etc/cni/net.d";
/// Where the cache's files are.
const CACHE: &str = "/var/lib/cni/results";
/// The widest line of a table.
const WIDTH: usize = 80;

/// A call of the command, with these words.
fn call(sb: &Sandbox, words: &[&str]) -> Call {
    if !sb.has("cninet") {
        verdict::skip("no cninet in the directory under test");
    }
    sb.plugin("cninet", "").words(words)
}

/// Its outcome.
fn cninet(sb: &Sandbox, words: &[&str]) -> Outcome {
    call(sb, words).run()
}

/// What it prints; panics if it fails.
#[track_caller]
fn printed(sb: &Sandbox, words: &[&str]) -> String {
    let outcome = cninet(sb, words);
    assert_eq!(outcome.code, Some(0), "{words:?}: {outcome}");
    outcome.stdout
}

/// What it prints as JSON.
#[track_caller]
fn shown(sb: &Sandbox, words: &[&str]) -> Vec<Value> {
    array(&printed(sb, &[words, &["--json"]].concat()))
}

/// Panics unless the command fails, prints nothing, and its message names all of these.
#[track_caller]
fn refused(sb: &Sandbox, words: &[&str], named: &[&str]) {
    let outcome = cninet(sb, words);
    assert!(outcome.code.is_some_and(|code| code != 0) && outcome.stdout.is_empty(), "{words:?}: {outcome}");
    assert!(named.iter().all(|part| outcome.stderr.contains(part)), "{named:?} in {outcome}");
}

/// Writes a network with this bridge configuration in addition, and chained plugins.
fn network(name: &str, number: u8, keys: &Value, chained: &[Value]) {
    let mut bridge = json!({"type": "bridge", "bridge": format!("br{number}"), "isGateway": true, "hairpinMode": true,
        "capabilities": {"ips": true},
        "ipam": {"type": "host-local", "ranges": [[{"subnet": format!("10.{number}.0.0/24")}]],
            "routes": [{"dst": "0.0.0.0/0"}]}});
    for (key, value) in keys.as_object().into_iter().flatten() {
        bridge[key] = value.clone();
    }
    let plugins: Vec<&Value> = [&bridge].into_iter().chain(chained).collect();
    write(name, &json!({"cniVersion": "1.1.0", "name": name, "plugins": plugins}));
}

fn write(name: &str, list: &Value) {
    fs::create_dir_all(NETWORKS).unwrap();
    fs::write(Path::new(NETWORKS).join(format!("{name}.conflist")), list.to_string()).unwrap();
}

/// Attaches a new namespace of the container's name, as a runtime does.
fn attach(sb: &Sandbox, network: &str, id: &str) -> Netns {
    let ns = sb.container(id);
    ns.sh(&["ip", "link", "set", "lo", "up"]);
    printed(sb, &["add", network, &ns.path(), "--id", id]);
    ns
}

/// The first address of an attachment, without its prefix length.
fn address(sb: &Sandbox, network: &str, id: &str) -> String {
    let all = shown(sb, &["ps", "--network", network, "--container", id]);
    let address = all[0]["addresses"][0].as_str().unwrap();
    address.split('/').next().unwrap().to_owned()
}

/// How many of each kind `leaks` shows.
fn kinds(leaks: &[Value]) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for leak in leaks {
        *kinds.entry(leak["kind"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    kinds
}
