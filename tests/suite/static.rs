//! static: the addresses that the configuration, the arguments and the runtime say, and nothing kept.

use cni_tests::{Call, Sandbox, Snapshot};
use serde_json::{Value, json};

use crate::case::{Case, common, improved, newer};
use cni_tests::plugins::{VERSIONS, minimal, tidy};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        common("cni_args_add_addresses", cni_args),
        common("args_and_the_runtime_replace_them", replaced),
        common("without_addresses_the_result_is_empty", empty),
        common("one_address_per_family_before_0.3.0", one_per_family),
        common("del_needs_nothing", del),
        common("check_needs_a_previous_result", |sb| {
            call(sb, "CHECK", &with("1.0.0", &two())).run().error().names(&["prevResult"]);
        }),
        common("check_compares_gateways", check_gateway),
        improved("check_notices_an_absent_address", check_absent),
        newer("gc_and_status", gc_and_status),
        improved("status_says_what_add_would_say", |sb| {
            sb.needs("static", "1.1.0");
            let conf = with("1.1.0", &json!([{"address": "10.0.0.5"}]));
            sb.plugin("static", "STATUS").conf(&conf).run().error().names(&["10.0.0.5"]);
        }),
    ];
    for version in VERSIONS {
        cases.push(common(format!("result_{version}"), move |sb| result(sb, version)));
    }
    for (label, keys, args, named) in refusals() {
        cases.push(common(format!("refuses_{label}"), move |sb: &Sandbox| {
            let before = Snapshot::of(&[&sb.node()]);
            let mut conf = with("1.0.0", &two());
            keys.as_object().unwrap().iter().for_each(|(key, value)| conf[key] = value.clone());
            let error = call(sb, "ADD", &conf).env("CNI_ARGS", args).run().error();
            assert_eq!(error.code, 999, "{error:?}");
            error.names(named);
            Snapshot::of(&[&sb.node()]).same_as(&before);
        }));
    }
    cases
}

type Row = (&'static str, Value, &'static str, &'static [&'static str]);

fn refusals() -> Vec<Row> {
    let address = |text: &str| json!({"ipam": {"type": "static", "addresses": [{"address": text}]}});
    vec![
        ("no_ipam", json!({"ipam": null}), "", &["ipam"]),
        ("address_without_prefix", address("10.0.0.5"), "", &["expected to be in CIDR notation", "10.0.0.5"]),
        ("address_garbage", address("x/24"), "", &["expected to be in CIDR notation", "x/24"]),
        ("prefix_too_long", address("10.0.0.5/33"), "", &["10.0.0.5/33"]),
        ("arg_without_prefix", json!({}), "IP=10.1.0.5", &["expected to be in CIDR notation", "10.1.0.5"]),
        ("arg_gateway", json!({}), "IP=10.1.0.5/24;GATEWAY=10.1", &["invalid gateway address", "10.1"]),
        ("unknown_arg", json!({}), "FOO=1", &["FOO"]),
        ("args_ips", json!({"args": {"cni": {"ips": ["10.2.0.5"]}}}), "", &["NOT in CIDR notation", "10.2.0.5"]),
        ("runtime_ips", json!({"runtimeConfig": {"ips": ["10.3.0.5"]}}), "", &["NOT in CIDR notation", "10.3.0.5"]),
    ]
}

fn two() -> Value {
    json!([{"address": "10.0.0.5/24", "gateway": "10.0.0.1"}, {"address": "fd00::5/64"}])
}

fn with(version: &str, addresses: &Value) -> Value {
    let mut conf = minimal("static", version);
    conf["ipam"]["addresses"] = addresses.clone();
    conf
}

/// An IPAM plugin never enters the namespace, so it may be anything.
fn call(sb: &Sandbox, verb: &str, conf: &Value) -> Call {
    sb.plugin("static", verb).names("c1", "eth0").env("CNI_NETNS", "/some/where").conf(conf)
}

fn addresses(sb: &Sandbox, conf: &Value, args: &str) -> Vec<String> {
    let result = call(sb, "ADD", conf).env("CNI_ARGS", args).run().result();
    let ips = result["ips"].as_array().cloned().unwrap_or_default();
    let shown = |ip: &Value| match ip["gateway"].as_str() {
        Some(gateway) => format!("{} via {gateway}", ip["address"].as_str().unwrap()),
        None => ip["address"].as_str().unwrap().to_owned(),
    };
    ips.iter().map(shown).collect()
}

fn result(sb: &Sandbox, version: &str) {
    sb.needs("static", version);
    let mut conf = with(version, &two());
    conf["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0"}, {"dst": "fd09::/16", "gw": "fd00::9"}]);
    conf["ipam"]["dns"] = json!({"nameservers": ["10.0.0.53"], "domain": "example"});
    let dns = &conf["ipam"]["dns"];
    let expected = match version {
        "0.1.0" | "0.2.0" => json!({
            "cniVersion": version, "dns": dns,
            "ip4": {"ip": "10.0.0.5/24", "gateway": "10.0.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
            "ip6": {"ip": "fd00::5/64", "routes": [{"dst": "fd09::/16", "gw": "fd00::9"}]}
        }),
        "0.3.0" | "0.3.1" | "0.4.0" => json!({
            "cniVersion": version, "dns": dns, "routes": conf["ipam"]["routes"], "ips": [
                {"version": "4", "address": "10.0.0.5/24", "gateway": "10.0.0.1"},
                {"version": "6", "address": "fd00::5/64"}
            ]
        }),
        _ => json!({
            "cniVersion": version, "dns": dns, "routes": conf["ipam"]["routes"],
            "ips": [{"address": "10.0.0.5/24", "gateway": "10.0.0.1"}, {"address": "fd00::5/64"}]
        }),
    };
    let before = Snapshot::of(&[&sb.node()]);
    assert_eq!(tidy(call(sb, "ADD", &conf).run().result()), expected);
    Snapshot::of(&[&sb.node()]).same_as(&before);
}

fn cni_args(sb: &Sandbox) {
    let conf = with("1.0.0", &two());
    let found = addresses(sb, &conf, "IP=10.1.0.5/24, fd01::5/64;GATEWAY=10.1.0.1");
    assert_eq!(found, ["10.0.0.5/24 via 10.0.0.1", "fd00::5/64", "10.1.0.5/24 via 10.1.0.1", "fd01::5/64"]);
}

fn replaced(sb: &Sandbox) {
    let mut conf = with("1.0.0", &two());
    conf["args"] = json!({"cni": {"ips": ["10.2.0.5/24"]}});
    assert_eq!(addresses(sb, &conf, "IP=10.1.0.5/24"), ["10.2.0.5/24"]);
    conf["runtimeConfig"] = json!({"ips": ["10.3.0.5/24", "fd03::5/64"]});
    assert_eq!(addresses(sb, &conf, ""), ["10.3.0.5/24", "fd03::5/64"]);
}

fn empty(sb: &Sandbox) {
    let result = tidy(call(sb, "ADD", &with("1.0.0", &json!([]))).run().result());
    assert_eq!(result, json!({"cniVersion": "1.0.0"}));
}

fn one_per_family(sb: &Sandbox) {
    let addresses = json!([{"address": "10.0.0.5/24"}, {"address": "10.1.0.5/24"}]);
    call(sb, "ADD", &with("0.2.0", &addresses)).run().error().names(&["0.2.0"]);
    call(sb, "ADD", &with("0.3.0", &addresses)).run().result();
}

fn del(sb: &Sandbox) {
    let mut conf = with("1.0.0", &two());
    let before = Snapshot::of(&[&sb.node()]);
    (0..2).for_each(|_| call(sb, "DEL", &conf).run().silent());
    conf["ipam"] = json!({"addresses": [{"address": "garbage"}]});
    call(sb, "DEL", &conf).without("CNI_NETNS").env("CNI_ARGS", "FOO=1").run().silent();
    Snapshot::of(&[&sb.node()]).same_as(&before);
}

fn check(sb: &Sandbox, ips: &Value) -> cni_tests::Outcome {
    let mut conf = with("1.0.0", &two());
    conf["prevResult"] = json!({"cniVersion": "1.0.0", "ips": ips});
    call(sb, "CHECK", &conf).run()
}

fn check_gateway(sb: &Sandbox) {
    check(sb, &two()).silent();
    let mut ips = two();
    // The caller may have filled in what wasn't configured.
    ips[1]["gateway"] = "fd00::1".into();
    check(sb, &ips).silent();
    ips[0]["gateway"] = "10.0.0.2".into();
    check(sb, &ips).error().names(&["10.0.0.5"]);
}

fn check_absent(sb: &Sandbox) {
    check(sb, &json!([two()[0]])).error().names(&["fd00::5/64"]);
    check(sb, &json!([])).error().names(&["10.0.0.5/24", "fd00::5/64"]);
    check(sb, &json!([{"address": "10.0.0.5/16", "gateway": "10.0.0.1"}, two()[1]])).error().names(&["10.0.0.5/24"]);
}

fn gc_and_status(sb: &Sandbox) {
    sb.needs("static", "1.1.0");
    let mut conf = with("1.1.0", &two());
    sb.plugin("static", "STATUS").conf(&conf).run().silent();
    conf["cni.dev/valid-attachments"] = json!([]);
    let before = Snapshot::of(&[&sb.node()]);
    sb.plugin("static", "GC").conf(&conf).run().silent();
    Snapshot::of(&[&sb.node()]).same_as(&before);
}
