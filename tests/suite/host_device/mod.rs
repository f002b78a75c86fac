//! host-device: a device of the node in a container, and back as it was. The device is one end of a veth pair, which the
//! kernel moves as it moves hardware.

pub(crate) mod add;
pub(crate) mod back;
pub(crate) mod check;
pub(crate) mod find;

use std::path::Path;

use cni_tests::kernel::{link, link_names};
use cni_tests::{Attachment, Chain, Netns, Outcome, Sandbox};
use serde_json::{Value, json};

const GO: &str = "/usr/lib/cni";

/// The node with the device `host0`, whose other end stays there.
fn device(sb: &Sandbox) {
    sb.node().sh(&["ip", "link", "add", "host0", "type", "veth", "peer", "name", "host1"]);
    sb.node().sh(&["ip", "link", "set", "host1", "up"]);
}

fn network() -> Value {
    json!({"type": "host-device", "device": "host0", "ipam": {
        "type": "host-local", "ranges": [[{"subnet": "10.23.0.0/24"}], [{"subnet": "fd00:23::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    }})
}

fn layer2() -> Value {
    json!({"type": "host-device", "device": "host0"})
}

fn chain(sb: &Sandbox, conf: &Value) -> Chain {
    Chain::new("devnet", sb.newest(&["host-device", "host-local"]), std::slice::from_ref(conf))
}

/// The container `id` with the node's `host0` as its `eth0`.
fn attached(sb: &Sandbox, conf: &Value, id: &str) -> (Netns, Attachment) {
    chain(sb, conf).attached(sb, id)
}

fn call(sb: &Sandbox, verb: &str, conf: &Value, at: &Attachment) -> Outcome {
    chain(sb, conf).call(sb, verb, conf, at, at.result.as_ref()).run()
}

fn go(sb: &Sandbox) -> Sandbox {
    sb.with_plugins(Path::new(GO))
}

/// The reserved addresses.
fn reserved() -> Vec<String> {
    let files = std::fs::read_dir("/var/lib/cni/networks/devnet").into_iter().flatten();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name.starts_with(|first: char| first.is_ascii_hexdigit()) && name.contains(['.', ':']))
        .collect()
}

/// The device is on the node and nowhere else, and nothing tells that it was away.
#[track_caller]
fn is_back(sb: &Sandbox, name: &str) {
    let found = link(&sb.node(), name).unwrap_or_else(|| panic!("{name} is not back: {:?}", link_names(&sb.node())));
    assert!(found["ifalias"].is_null(), "{found}");
    assert!(found["altnames"].is_null(), "{found}");
    assert!(!Path::new("/run/cni/host-device").read_dir().is_ok_and(|mut files| files.next().is_some()));
}
