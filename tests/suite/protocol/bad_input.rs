//! Bad input: one JSON error that names the field and the value, exit 1, and nothing left behind.

use cni_tests::{Call, Netns, Sandbox, Snapshot};
use serde_json::{Value, json};

use crate::case::{Case, common, improved};
use cni_tests::plugins::{PLUGINS, minimal, ready};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for plugin in PLUGINS {
        cases.extend(environment(plugin));
        cases.extend(stdin(plugin));
        cases.push(improved(format!("{plugin}::ifname_with_percent"), move |sb| percent(sb, plugin)));
    }
    cases.extend(configurations());
    cases
}

/// Runs spoilt calls on a fresh node and judges the errors and what is left.
fn judge(sb: &Sandbox, ns: &Netns, calls: &[Call], code: Option<i64>, named: &[&str]) {
    let before = Snapshot::of(&[&sb.node(), ns]);
    for call in calls {
        let error = call.run().error();
        if let Some(code) = code {
            assert_eq!(error.code, code, "{error:?}");
        }
        error.names(named);
    }
    Snapshot::of(&[&sb.node(), ns]).same_as(&before);
}

/// A malformed variable, for each verb that requires it: label, variable, value, code.
fn environment(plugin: &'static str) -> Vec<Case> {
    const BAD: [(&str, &str, &str); 12] = [
        ("id_with_dash_first", "CNI_CONTAINERID", "-x"),
        ("id_with_slash", "CNI_CONTAINERID", "../x"),
        ("id_with_space", "CNI_CONTAINERID", "a b"),
        ("id_with_line_end", "CNI_CONTAINERID", "a\n"),
        ("id_not_ascii", "CNI_CONTAINERID", "caf\u{e9}"),
        ("ifname_of_16_bytes", "CNI_IFNAME", "abcdefghijklmnop"),
        ("ifname_dot", "CNI_IFNAME", "."),
        ("ifname_dotdot", "CNI_IFNAME", ".."),
        ("ifname_with_slash", "CNI_IFNAME", "a/b"),
        ("ifname_with_colon", "CNI_IFNAME", "eth0:1"),
        ("ifname_with_space", "CNI_IFNAME", "eth 0"),
        ("ifname_with_tab", "CNI_IFNAME", "eth\t0"),
    ];
    let mut cases = Vec::new();
    for (label, variable, value) in BAD {
        cases.push(common(format!("{plugin}::{label}"), move |sb: &Sandbox| {
            let ns = sb.container("c1");
            let spoilt = |verb| ready(sb, plugin, verb, "0.4.0", &ns).env(variable, value);
            judge(sb, &ns, &["ADD", "CHECK", "DEL"].map(spoilt), Some(4), &[]);
        }));
        cases.push(improved(format!("{plugin}::{label}_is_named"), move |sb: &Sandbox| {
            let ns = sb.container("c1");
            let error = ready(sb, plugin, "ADD", "0.4.0", &ns).env(variable, value).run().error();
            // The value may be quoted as a string of some language.
            let plain = value.trim();
            error.names(if plain.contains(['\t', '\u{e9}']) { &[] } else { std::slice::from_ref(&plain) });
            let text = error.text().to_lowercase();
            let what = if variable == "CNI_IFNAME" { "interface" } else { "container" };
            assert!(text.contains(what) || error.text().contains(variable), "{variable} isn't named: {error:?}");
        }));
    }
    for verb in ["FOO", "add", "ADD "] {
        let name = format!("{plugin}::unknown_verb_{}", verb.trim().to_lowercase());
        let name = if verb.ends_with(' ') { name + "_with_space" } else { name };
        cases.push(common(name, move |sb: &Sandbox| {
            let ns = sb.container("c1");
            judge(sb, &ns, &[ready(sb, plugin, verb, "0.4.0", &ns)], Some(4), &["CNI_COMMAND", verb]);
        }));
    }
    cases
}

/// The kernel takes `%d` for a pattern: the interface would get another name than the result says.
fn percent(sb: &Sandbox, plugin: &str) {
    let ns = sb.container("c1");
    let spoilt = |verb| ready(sb, plugin, verb, "0.4.0", &ns).env("CNI_IFNAME", "eth%d");
    judge(sb, &ns, &["ADD", "CHECK", "DEL"].map(spoilt), Some(4), &["CNI_IFNAME", "eth%d", "'%'"]);
}

/// A broken document on stdin: label, text, code.
fn stdin(plugin: &'static str) -> Vec<Case> {
    let text = |edit: fn(&mut Value)| {
        let mut conf = minimal(plugin, "0.4.0");
        edit(&mut conf);
        conf.to_string()
    };
    let rows: Vec<(&str, String, i64, &[&str])> = vec![
        ("empty_stdin", String::new(), 6, &[]),
        ("half_an_object", r#"{"cniVersion":"0.4.0","name":"te"#.to_owned(), 6, &[]),
        ("trailing_data", format!("{} x", minimal(plugin, "0.4.0")), 6, &[]),
        ("a_list", "[]".to_owned(), 6, &[]),
        ("not_json", "cniVersion: 0.4.0".to_owned(), 6, &[]),
        ("name_not_a_string", text(|c| c["name"] = 7.into()), 6, &["name"]),
        ("version_not_a_string", text(|c| c["cniVersion"] = 1.into()), 6, &["cniVersion"]),
        ("no_name", text(|c| drop(c.as_object_mut().map(|c| c.remove("name")))), 7, &["name"]),
        ("empty_name", text(|c| c["name"] = "".into()), 7, &["name"]),
        ("null_name", text(|c| c["name"] = Value::Null), 7, &["name"]),
        ("name_with_space", text(|c| c["name"] = "a b".into()), 7, &["name", "a b"]),
        ("name_with_slash", text(|c| c["name"] = "../x".into()), 7, &["name", "../x"]),
        ("name_with_dot_first", text(|c| c["name"] = ".x".into()), 7, &["name", ".x"]),
        ("unknown_version", text(|c| c["cniVersion"] = "9.9.9".into()), 1, &[]),
    ];
    let case = |(label, text, code, named): (&str, String, i64, &'static [&str])| {
        common(format!("{plugin}::{label}"), move |sb: &Sandbox| {
            let ns = sb.container("c1");
            let spoilt = |verb| ready(sb, plugin, verb, "0.4.0", &ns).stdin(&text);
            judge(sb, &ns, &["ADD", "DEL", "CHECK"].map(spoilt), Some(code), named);
        })
    };
    rows.into_iter().map(case).collect()
}

/// What a configuration may not say: plugin, label, the keys to set, what the error names.
fn configurations() -> Vec<Case> {
    let rows: Vec<(&'static str, &str, Value, &'static [&str])> = vec![
        ("bridge", "hairpin_and_promisc", json!({"hairpinMode": true, "promiscMode": true}), &["hairpin", "promisc"]),
        ("bridge", "mtu_as_text", json!({"mtu": "1500"}), &["mtu"]),
        ("bridge", "gateway_as_text", json!({"isGateway": "yes"}), &["isGateway"]),
        ("host-local", "no_ipam", json!({"ipam": null}), &["ipam"]),
        ("portmap", "no_prev_result", json!({"prevResult": null}), &[]),
        ("portmap", "mark_bit_32", json!({"markMasqBit": 32}), &["31"]),
        (
            "portmap",
            "mark_and_chain",
            json!({"markMasqBit": 4, "externalSetMarkChain": "X"}),
            &["markMasqBit", "externalSetMarkChain"],
        ),
        ("portmap", "host_port_0", mapping(0, 80, "tcp"), &["0"]),
        ("portmap", "container_port_0", mapping(8080, 0, "tcp"), &["0"]),
        ("portmap", "host_port_negative", mapping(-1, 80, "tcp"), &["-1"]),
    ];
    let better: Vec<(&'static str, &str, Value, &'static [&str])> = vec![
        ("bridge", "not_a_mac", json!({"runtimeConfig": {"mac": "zz:00:00:00:00:01"}}), &["mac", "zz:00:00:00:00:01"]),
        (
            "bridge",
            "mac_multicast",
            json!({"runtimeConfig": {"mac": "01:00:5e:00:00:01"}}),
            &["runtimeConfig.mac", "01:00:5e:00:00:01", "multicast"],
        ),
        (
            "bridge",
            "mac_zero",
            json!({"args": {"cni": {"mac": "00:00:00:00:00:00"}}}),
            &["args.cni.mac", "00:00:00:00:00:00"],
        ),
        (
            "bridge",
            "mac_broadcast",
            json!({"runtimeConfig": {"mac": "ff:ff:ff:ff:ff:ff"}}),
            &["runtimeConfig.mac", "broadcast"],
        ),
        ("bridge", "empty_bridge_name", json!({"bridge": ""}), &["bridge"]),
        ("bridge", "long_bridge_name", json!({"bridge": "abcdefghijklmnop"}), &["bridge", "abcdefghijklmnop"]),
        ("bridge", "bridge_name_with_percent", json!({"bridge": "br%d"}), &["bridge", "br%d", "'%'"]),
        ("bridge", "masquerade_backend", masquerade("pf"), &["ipMasqBackend", "pf"]),
        ("bridge", "ipam_type_with_slash", json!({"ipam": {"type": "../x"}}), &["ipam.type", "../x"]),
        ("bridge", "no_such_ipam", json!({"ipam": {"type": "nope"}}), &["nope"]),
        ("portmap", "host_port_65536", mapping(65536, 80, "tcp"), &["portMappings", "65536"]),
        ("portmap", "container_port_65536", mapping(80, 65536, "tcp"), &["portMappings", "65536"]),
        ("portmap", "unknown_protocol", mapping(80, 80, "icmp"), &["protocol", "icmp"]),
        ("portmap", "host_ip_garbage", host_ip("300.1.1.1"), &["hostIP", "300.1.1.1"]),
        ("portmap", "unknown_backend", json!({"backend": "pf"}), &["backend", "pf"]),
    ];
    let make = |basis: fn(String, Story) -> Case, (plugin, label, keys, named): Row| {
        let story: Story = Box::new(move |sb: &Sandbox| refused(sb, plugin, &keys, named));
        basis(format!("{plugin}::{label}"), story)
    };
    let rows = rows.into_iter().map(|row| make(|name, story| common(name, story), row));
    let better = better.into_iter().map(|row| make(|name, story| improved(name, story), row));
    rows.chain(better).collect()
}

/// Plugin, label, keys to set, what the error names.
type Row = (&'static str, &'static str, Value, &'static [&'static str]);

type Story = Box<dyn Fn(&Sandbox) + Send + Sync>;

fn mapping(host: i64, container: i64, protocol: &str) -> Value {
    let mapping = json!({"hostPort": host, "containerPort": container, "protocol": protocol});
    json!({"runtimeConfig": {"portMappings": [mapping]}})
}

fn host_ip(ip: &str) -> Value {
    json!({"runtimeConfig": {"portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ip}
    ]}})
}

fn masquerade(backend: &str) -> Value {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}]]});
    json!({"ipMasq": true, "ipMasqBackend": backend, "ipam": ipam})
}

/// ADD with `keys` set in the minimal configuration fails, names what it should and leaves nothing.
fn refused(sb: &Sandbox, plugin: &str, keys: &Value, named: &[&str]) {
    let ns = sb.container("c1");
    let mut conf = minimal(plugin, "1.0.0");
    for (key, value) in keys.as_object().unwrap() {
        conf[key] = value.clone();
    }
    judge(sb, &ns, &[ready(sb, plugin, "ADD", "1.0.0", &ns).conf(&conf)], None, named);
}
