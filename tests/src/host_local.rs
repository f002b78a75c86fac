//! host-local by itself: calls of it and what it keeps in `/var/lib/cni/networks`.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::{Call, Outcome, Sandbox, conf};

/// A call of host-local for `eth0` of a container; the namespace's path is never opened by an allocation.
pub fn call(sb: &Sandbox, verb: &str, id: &str, conf: &Value) -> Call {
    sb.plugin("host-local", verb).names(id, "eth0").env("CNI_NETNS", "/run/netns/none").conf(conf)
}

/// ADD; the outcome may be a failure.
pub fn add(sb: &Sandbox, id: &str, conf: &Value) -> Outcome {
    call(sb, "ADD", id, conf).run()
}

/// ADD that has to succeed; the addresses with their prefixes.
#[track_caller]
pub fn added(sb: &Sandbox, id: &str, conf: &Value) -> Vec<String> {
    let result = add(sb, id, conf).result();
    result["ips"].as_array().unwrap().iter().map(|ip| ip["address"].as_str().unwrap().to_owned()).collect()
}

/// A file of network `testnet`.
pub fn file(name: &str) -> PathBuf {
    PathBuf::from("/var/lib/cni/networks/testnet").join(name)
}

/// The names in the network's directory, sorted.
pub fn names() -> Vec<String> {
    let entries = fs::read_dir(file("")).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A configuration with an `ipam` object.
pub fn with(version: &str, ipam: &Value) -> Value {
    let mut ipam = ipam.clone();
    ipam["type"] = "host-local".into();
    conf::named(version, json!({"type": "bridge", "ipam": ipam}))
}
