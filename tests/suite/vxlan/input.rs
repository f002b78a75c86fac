//! vxlan: each key by its name with what is allowed, and STATUS.

use cni_tests::Sandbox;
use serde_json::{Value, json};

use super::{hosts, write};
use crate::case::{Case, improved};

/// Keys that ADD, CHECK and STATUS refuse, and the words of the refusal.
fn bad_keys() -> Vec<(&'static str, Value, &'static [&'static str])> {
    vec![
        ("no_vni", json!({"vni": null}), &["vni", "1 to 16777215"]),
        ("vni_zero", json!({"vni": 0}), &["vni: 0", "1 to 16777215"]),
        ("vni_of_25_bits", json!({"vni": 16_777_216}), &["vni: 16777216", "1 to 16777215"]),
        ("vni_negative", json!({"vni": -1}), &["vni: -1"]),
        ("vni_text", json!({"vni": "42"}), &["vni", "\"42\""]),
        ("port_zero", json!({"port": 0}), &["port: 0", "1 to 65535", "4789"]),
        ("port_large", json!({"port": 65536}), &["port: 65536", "1 to 65535"]),
        ("dev_and_local", json!({"local": "192.0.2.1"}), &["dev", "local", "eth0", "192.0.2.1", "not both"]),
        ("dev_impossible", json!({"dev": "a/b"}), &["dev", "a/b"]),
        ("dev_absent", json!({"dev": "eth7"}), &["dev", "eth7", "no link"]),
        ("local_name", json!({"dev": "", "local": "host1"}), &["local", "host1", "IPv4 or IPv6"]),
        ("local_prefix", json!({"dev": "", "local": "192.0.2.1/24"}), &["local", "192.0.2.1/24", "without a prefix"]),
        ("local_loopback", json!({"dev": "", "local": "127.0.0.1"}), &["local", "127.0.0.1", "loopback"]),
        ("local_of_another_host", json!({"dev": "", "local": "192.0.2.9"}), &["local", "192.0.2.9", "this node"]),
        ("local_of_the_other_family", json!({"dev": "", "local": "2001:db8::1"}), &["local", "2001:db8::1", "IPv4"]),
        ("peers_relative", json!({"peers": "peers"}), &["peers", "\"peers\"", "absolute"]),
        (
            "peers_absent",
            json!({"peers": "/run/none"}),
            &["peers", "/run/none", "No such file", "a line for each host"],
        ),
        ("peers_a_directory", json!({"peers": "/run"}), &["peers", "/run", "regular file"]),
        ("peers_default", json!({"peers": ""}), &["peers", "/etc/cni/peers/net"]),
        ("mtu_small", json!({"mtu": 67}), &["mtu: 67", "68 to 65535"]),
        ("mtu_negative", json!({"mtu": -5}), &["mtu: -5"]),
        ("mtu_larger_than_fits", json!({"mtu": 1500}), &["mtu: 1500", "1450", "eth0"]),
    ]
}

/// Files that are refused, and the words of the refusal, the line among them.
const BAD_FILES: [(&str, &str, &[&str]); 8] = [
    ("file_with_a_name", "192.0.2.1\n\n# two\nhost2\n", &["/run/peers, line 4", "host2", "IPv4 or IPv6"]),
    ("file_with_a_prefix", "192.0.2.1/24\n", &["line 1", "192.0.2.1/24"]),
    ("file_with_a_word", "192.0.2.1 vtep1\n", &["line 1", "vtep1", "subnet", "MAC"]),
    ("file_with_a_group_address", "192.0.2.1\n239.0.0.1\n", &["line 2", "239.0.0.1", "multicast"]),
    ("file_with_both_families", "192.0.2.1\n2001:db8::2\n", &["line 2", "2001:db8::2", "192.0.2.1", "one family"]),
    ("file_with_a_host_twice", "192.0.2.2\n192.0.2.3\n192.0.2.2\n", &["line 3", "192.0.2.2", "line 1"]),
    (
        "file_with_a_subnet_twice",
        "192.0.2.2 10.1.2.0/24\n192.0.2.3 10.1.2.128/25\n",
        &["line 2", "10.1.2.0/24", "10.1.2.128/25", "line 1"],
    ),
    (
        "file_with_a_mac_twice",
        "192.0.2.2 02:00:00:00:00:01\n192.0.2.3 02:00:00:00:00:01\n",
        &["line 2", "02:00:00:00:00:01", "line 1"],
    ),
];

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> =
        bad_keys().into_iter().map(|(name, keys, parts)| improved(name, move |sb| refused(sb, &keys, parts))).collect();
    cases.extend(BAD_FILES.iter().map(|(name, file, parts)| {
        improved(*name, move |sb| {
            let write = move || write(file);
            refused_after(sb, write, &json!({}), parts);
        })
    }));
    cases.push(improved("status", status));
    cases
}

fn refused(sb: &Sandbox, keys: &Value, parts: &[&str]) {
    refused_after(sb, || (), keys, parts);
}

/// ADD, CHECK and STATUS say no, and nothing is left; DEL and GC don't ask.
fn refused_after(sb: &Sandbox, prepare: impl Fn(), keys: &Value, parts: &[&str]) {
    let hosts = hosts(sb, 2);
    let (host, good) = (&hosts[0], hosts[0].chain(sb, &json!({})));
    let container = host.attach(sb, &good, "c1");
    host.call(sb, "DEL", &good, &container.at).silent();
    prepare();
    let bad = host.chain(sb, keys);
    for verb in ["ADD", "CHECK", "STATUS"] {
        host.call(sb, verb, &bad, &container.at).error().names(parts);
    }
    assert!(!host.has_device("vxlan42") && host.guarded("ports").is_empty());
    host.call(sb, "DEL", &bad, &container.at).silent();
}

/// It says yes where ADD would succeed, changes nothing, and says no by code 50 where the node is why ADD would fail.
fn status(sb: &Sandbox) {
    let hosts = hosts(sb, 2);
    let (host, chain) = (&hosts[0], hosts[0].chain(sb, &json!({})));
    let at = cni_tests::Attachment::new("c1", &sb.container("c1"));
    host.call(sb, "STATUS", &chain, &at).silent();
    assert!(!host.has_device("vxlan42") && host.guarded("ports").is_empty());
    let container = host.attach(sb, &chain, "c2");
    host.call(sb, "STATUS", &chain, &at).silent();
    host.check(sb, &chain, &container);
    for keys in [json!({"dev": "eth7"}), json!({"peers": "/run/none"})] {
        assert_eq!(host.call(sb, "STATUS", &host.chain(sb, &keys), &at).error().code, 50, "{keys}");
    }
    write("192.0.2.1\nnobody\n");
    let refused = host.call(sb, "STATUS", &chain, &at).error();
    assert_eq!(refused.code, 50);
    refused.names(&["line 2", "nobody"]);
}
