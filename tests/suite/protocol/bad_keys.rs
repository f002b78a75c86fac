//! Keys of the wrong type or with values that can't be: refused by name, before anything has been touched.

use cni_tests::{Sandbox, Snapshot};
use serde_json::{Value, json};

use crate::case::{Case, improved};
use cni_tests::plugins::{minimal, ready};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let all = [
        ("firewall", firewall()),
        ("ptp", ptp()),
        ("static", statics()),
        ("tuning", tuning()),
        ("loopback", loopback()),
    ];
    let rows = all.into_iter().flat_map(|(plugin, rows)| rows.into_iter().map(move |row| (plugin, row)));
    rows.map(|(plugin, (label, keys, named))| {
        improved(format!("{plugin}::{label}"), move |sb| refused(sb, plugin, &keys, named))
    })
    .collect()
}

/// What is wrong, the keys to set, and what the error has to name.
type Row = (&'static str, Value, &'static [&'static str]);

fn refused(sb: &Sandbox, plugin: &str, keys: &Value, named: &[&str]) {
    let ns = sb.container_with_eth0();
    let mut conf = minimal(plugin, "1.0.0");
    keys.as_object().unwrap().iter().for_each(|(key, value)| conf[key] = value.clone());
    // Listing them makes the tables of iptables-nft.
    drop(Snapshot::of(&[&sb.node(), &ns]));
    let before = Snapshot::of(&[&sb.node(), &ns]);
    ready(sb, plugin, "ADD", "1.0.0", &ns).conf(&conf).names("c1", "net1").run().error().names(named);
    Snapshot::of(&[&sb.node(), &ns]).same_as(&before);
    ready(sb, plugin, "DEL", "1.0.0", &ns).conf(&minimal(plugin, "1.0.0")).names("c1", "net1").run().silent();
}

fn prev(address: &str, bridge: &str) -> Value {
    json!({"cniVersion": "1.0.0", "interfaces": [{"name": bridge}], "ips": [{"address": address}]})
}

fn firewall() -> Vec<Row> {
    let behind =
        |bridge| json!({"backend": "iptables", "ingressPolicy": "isolated", "prevResult": prev("10.1.2.3/24", bridge)});
    vec![
        ("backend_as_number", json!({"backend": 3}), &["backend"]),
        ("policy_as_list", json!({"ingressPolicy": ["open"]}), &["ingressPolicy"]),
        ("policy_in_capitals", json!({"ingressPolicy": "OPEN"}), &["ingress", "OPEN"]),
        ("zone_as_bool", json!({"firewalldZone": true}), &["firewalldZone"]),
        ("chain_as_number", json!({"iptablesAdminChainName": 1}), &["iptablesAdminChainName"]),
        ("chain_with_blank", json!({"iptablesAdminChainName": "A B"}), &["iptablesAdminChainName", "A B"]),
        ("chain_like_an_option", json!({"iptablesAdminChainName": "-F"}), &["iptablesAdminChainName", "-F"]),
        ("chain_of_29", json!({"iptablesAdminChainName": "x".repeat(29)}), &["iptablesAdminChainName", "xxx"]),
        ("result_with_garbage", json!({"prevResult": prev("10.1.2.3.4/24", "br0")}), &["prevResult", "10.1.2.3.4"]),
        ("result_of_another_family", json!({"prevResult": {"cniVersion": "0.2.0"}}), &["0.2.0"]),
        ("bridge_with_slash", behind("a/b"), &["prevResult", "a/b"]),
        ("bridge_of_16", behind("abcdefghijklmnop"), &["prevResult", "abcdefghijklmnop"]),
        ("bridge_like_a_wildcard", behind("br+"), &["br+"]),
    ]
}

fn ptp() -> Vec<Row> {
    let ipam = |keys: Value| {
        let mut ipam = json!({"type": "host-local", "subnet": "10.1.2.0/24"});
        keys.as_object().unwrap().iter().for_each(|(key, value)| ipam[key] = value.clone());
        json!({"ipam": ipam})
    };
    vec![
        ("mtu_as_text", json!({"mtu": "1500"}), &["mtu"]),
        ("mtu_with_fraction", json!({"mtu": 1400.5}), &["mtu"]),
        ("masquerade_as_text", json!({"ipMasq": "yes"}), &["ipMasq"]),
        ("masquerade_backend", json!({"ipMasq": true, "ipMasqBackend": "pf"}), &["backend", "pf"]),
        ("dns_as_list", json!({"dns": []}), &["dns"]),
        ("ipam_as_list", json!({"ipam": []}), &["ipam"]),
        ("ipam_type_as_number", ipam(json!({"type": 1})), &["ipam"]),
        ("ipam_without_type", json!({"ipam": {"subnet": "10.1.2.0/24"}}), &["plugin name"]),
        ("subnet_garbage", ipam(json!({"subnet": "10.1.2/24"})), &["subnet", "10.1.2/24"]),
        ("route_garbage", ipam(json!({"routes": [{"dst": "nowhere"}]})), &["dst", "nowhere"]),
    ]
}

fn statics() -> Vec<Row> {
    let ipam = |key: &str, value: Value| {
        let mut ipam = json!({"type": "static", "addresses": [{"address": "10.1.2.3/24"}]});
        ipam[key] = value;
        json!({"ipam": ipam})
    };
    vec![
        ("addresses_as_text", ipam("addresses", "10.1.2.3/24".into()), &["addresses"]),
        ("address_missing", ipam("addresses", json!([{}])), &["address"]),
        ("address_as_number", ipam("addresses", json!([{"address": 10}])), &["address"]),
        ("address_with_zeros_first", ipam("addresses", json!([{"address": "010.1.2.3/24"}])), &["010.1.2.3/24"]),
        ("gateway_garbage", ipam("addresses", json!([{"address": "10.1.2.3/24", "gateway": "x"}])), &["gateway", "x"]),
        ("routes_as_text", ipam("routes", "default".into()), &["routes"]),
        ("route_without_prefix", ipam("routes", json!([{"dst": "10.0.0.0"}])), &["dst", "10.0.0.0"]),
        ("route_gateway_garbage", ipam("routes", json!([{"dst": "10.0.0.0/8", "gw": "y"}])), &["gw", "y"]),
        ("dns_as_text", ipam("dns", "10.0.0.53".into()), &["dns"]),
        ("ipam_as_text", json!({"ipam": "static"}), &["ipam"]),
        ("args_ips_as_text", json!({"args": {"cni": {"ips": "10.1.2.3/24"}}}), &["ips"]),
        ("runtime_ips_as_numbers", json!({"runtimeConfig": {"ips": [10]}}), &["ips"]),
    ]
}

fn tuning() -> Vec<Row> {
    vec![
        ("promisc_as_text", json!({"promisc": "on"}), &["promisc"]),
        ("allmulti_as_number", json!({"allmulti": 1}), &["allmulti"]),
        ("mtu_with_fraction", json!({"mtu": 1.5}), &["mtu"]),
        ("mtu_beyond_32_bits", json!({"mtu": 4_294_967_296_u64}), &["mtu", "4294967296"]),
        ("queue_as_text", json!({"txQLen": "7"}), &["txQLen"]),
        ("sysctl_as_list", json!({"sysctl": ["net.core.somaxconn"]}), &["sysctl"]),
        ("sysctl_null", json!({"sysctl": {"net.core.somaxconn": null}, "mtu": "x"}), &["mtu"]),
        ("mac_as_number", json!({"mac": 2}), &["mac"]),
        ("mac_of_eight_bytes", json!({"mac": "02:00:00:00:00:00:00:01"}), &["mac", "02:00:00:00:00:00:00:01"]),
        ("args_mtu_as_text", json!({"args": {"cni": {"mtu": "x"}}}), &["mtu"]),
        ("args_as_list", json!({"args": [], "mtu": 1400}), &["args"]),
        ("runtime_as_text", json!({"runtimeConfig": "x", "mac": "02:00:00:00:00:99"}), &["runtimeConfig"]),
    ]
}

fn loopback() -> Vec<Row> {
    vec![
        ("result_with_garbage", json!({"prevResult": prev("127.0.0/8", "lo")}), &["prevResult", "127.0.0/8"]),
        ("result_of_another_family", json!({"prevResult": {"cniVersion": "0.2.0"}}), &["0.2.0"]),
    ]
}
