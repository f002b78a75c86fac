//! bridge: its configuration key by key.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cni_tests::kernel::{addresses, default_routes, has_flag, link, routes};
use cni_tests::{Attachment, Netns, Sandbox};
use serde_json::{Value, json};

use super::alone;
use crate::case::{Case, common, improved, newer};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        common("bridge_defaults_to_cni0", default_name),
        common("bridge_of_another_kind_is_refused", not_a_bridge),
        common("mtu", mtu),
        common("hairpin_mode", hairpin),
        common("promisc_mode", promisc),
        common("promisc_mode_during_a_capture", captured),
        newer("port_isolation", isolation),
        newer("disable_container_interface", down),
        common("is_gateway_gives_no_default_route", gateway_only),
        common("force_address", force_address),
        improved("force_address_keeps_gateways_that_are_there", force_address_secondary),
        newer("dns_overrides_ipam", dns),
        common("two_ipv6_gateways", two_gateways),
        common("mac_by_runtime_config", |sb| mac(sb, "runtime")),
        common("mac_by_args", |sb| mac(sb, "args")),
        common("mac_by_cni_args", |sb| mac(sb, "env")),
        common("mac_precedence", |sb| mac(sb, "all")),
        common("cni_args", cni_args),
        newer("route_priority_and_table", route_table),
        improved("route_mtu_and_advmss", route_metrics),
        improved("default_route_of_another_table_is_not_the_default", other_default),
        improved("ipv6_switched_off_on_the_bridge_is_named", no_ipv6),
    ]
}

/// ADD for `eth0` of container `c1`: the namespace and the result.
fn attached(sb: &Sandbox, edit: impl Fn(&mut Value)) -> (Netns, Value) {
    let ns = sb.container("c1");
    let result = alone(sb, edit).add(sb, &mut Attachment::new("c1", &ns));
    (ns, result)
}

/// ADD that has to fail; the error.
fn refused(sb: &Sandbox, edit: impl Fn(&mut Value)) -> cni_tests::CniError {
    let ns = sb.container("c2");
    alone(sb, edit).try_add(sb, &mut Attachment::new("c2", &ns)).expect_err("ADD is refused").error()
}

fn port(sb: &Sandbox, result: &Value) -> Value {
    link(&sb.node(), result["interfaces"][1]["name"].as_str().unwrap()).unwrap()
}

fn default_name(sb: &Sandbox) {
    let (_, result) = attached(sb, |c| drop(c.as_object_mut().unwrap().remove("bridge")));
    assert_eq!(result["interfaces"][0]["name"], "cni0");
    assert!(link(&sb.node(), "cni0").is_some());
}

fn not_a_bridge(sb: &Sandbox) {
    refused(sb, |c| c["bridge"] = "lo".into()).names(&["lo", "not a bridge"]);
}

fn mtu(sb: &Sandbox) {
    let (ns, result) = attached(sb, |c| c["mtu"] = 1400.into());
    let bridge = link(&sb.node(), "br-test").unwrap();
    for (what, link) in [("bridge", bridge), ("port", port(sb, &result)), ("eth0", link(&ns, "eth0").unwrap())] {
        assert_eq!(link["mtu"], 1400, "{what}");
    }
}

fn hairpin(sb: &Sandbox) {
    let (_, result) = attached(sb, |c| c["hairpinMode"] = true.into());
    assert_eq!(port(sb, &result)["linkinfo"]["info_slave_data"]["hairpin"], true);
    let ns = sb.container("c2");
    let plain = alone(sb, |c| c["hairpinMode"] = false.into()).add(sb, &mut Attachment::new("c2", &ns));
    assert_eq!(port(sb, &plain)["linkinfo"]["info_slave_data"]["hairpin"], false);
}

fn promisc(sb: &Sandbox) {
    attached(sb, |c| {
        c["hairpinMode"] = false.into();
        c["promiscMode"] = true.into();
    });
    assert!(has_flag(&link(&sb.node(), "br-test").unwrap(), "PROMISC"));
}

/// A capture counts as promiscuity, and ends some time.
fn captured(sb: &Sandbox) {
    let node = sb.node();
    let chain = alone(sb, |c| {
        c["hairpinMode"] = false.into();
        c["promiscMode"] = true.into();
    });
    node.sh(&["ip", "link", "add", "br-test", "type", "bridge"]);
    node.sh(&["ip", "link", "set", "br-test", "up"]);
    let mut tcpdump = Command::new("tcpdump");
    let mut capture = tcpdump.args(["-ni", "br-test", "-w", "/dev/null"]).stderr(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    while link(&node, "br-test").unwrap()["promiscuity"] == 0 {
        assert!(begin.elapsed().as_secs() < 10, "tcpdump captures");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut at = Attachment::new("c1", &sb.container("c1"));
    chain.add(sb, &mut at);
    capture.kill().unwrap();
    capture.wait().unwrap();
    assert!(has_flag(&link(&node, "br-test").unwrap(), "PROMISC"));
    chain.check(sb, &at).silent();
    node.sh(&["ip", "link", "set", "br-test", "promisc", "off"]);
    chain.check(sb, &at).error().names(&["br-test", "romisc"]);
}

fn isolation(sb: &Sandbox) {
    let (_, result) = attached(sb, |c| c["portIsolation"] = true.into());
    assert_eq!(port(sb, &result)["linkinfo"]["info_slave_data"]["isolated"], true);
}

fn down(sb: &Sandbox) {
    let (ns, _) = attached(sb, |c| {
        c.as_object_mut().unwrap().remove("ipam");
        c["isDefaultGateway"] = false.into();
        c["disableContainerInterface"] = true.into();
    });
    assert!(!has_flag(&link(&ns, "eth0").unwrap(), "UP"));
    refused(sb, |c| c["disableContainerInterface"] = true.into());
}

fn gateway_only(sb: &Sandbox) {
    let (ns, result) = attached(sb, |c| {
        c["isDefaultGateway"] = false.into();
        c["isGateway"] = true.into();
    });
    assert_eq!(addresses(&sb.node(), "br-test"), ["10.77.0.1/24", "fd00:77::1/64"]);
    assert!(result.get("routes").is_none_or(|r| r == &json!([])), "{result}");
    assert!(default_routes(&ns, "-4").is_empty() && default_routes(&ns, "-6").is_empty());
}

fn force_address(sb: &Sandbox) {
    let other = |c: &mut Value| c["ipam"] = json!({"type": "host-local", "subnet": "10.78.0.0/24"});
    attached(sb, |_| ());
    refused(sb, other).names(&["br-test", "10.78.0.1"]);
    let chain = alone(sb, |c| {
        other(c);
        c["forceAddress"] = true.into();
    });
    chain.add(sb, &mut Attachment::new("c3", &sb.container("c3")));
    assert_eq!(addresses(&sb.node(), "br-test"), ["10.78.0.1/24", "fd00:77::1/64"]);
}

/// The kernel deletes the first address of a subnet together with the later ones, of which one is a gateway.
fn force_address_secondary(sb: &Sandbox) {
    let node = sb.node();
    node.sh(&["ip", "link", "add", "br-test", "type", "bridge"]);
    for address in ["10.77.0.254/24", "10.77.0.1/24"] {
        node.sh(&["ip", "addr", "add", address, "dev", "br-test"]);
    }
    let chain = alone(sb, |c| {
        c["ipam"]["ranges"] = json!([[{"subnet": "10.77.0.0/24"}], [{"subnet": "10.78.0.0/24"}]]);
        c["forceAddress"] = true.into();
    });
    let mut at = Attachment::new("c1", &sb.container("c1"));
    chain.add(sb, &mut at);
    assert_eq!(addresses(&node, "br-test"), ["10.77.0.1/24", "10.78.0.1/24"]);
    chain.check(sb, &at).silent();
}

fn dns(sb: &Sandbox) {
    std::fs::write("/run/resolv", "nameserver 10.0.0.53\n").unwrap();
    let ipam = |c: &mut Value| c["ipam"]["resolvConf"] = "/run/resolv".into();
    let (_, result) = attached(sb, ipam);
    assert_eq!(result["dns"], json!({"nameservers": ["10.0.0.53"]}));
    let chain = alone(sb, |c| {
        ipam(c);
        c["dns"] = json!({"nameservers": ["10.0.0.54"], "search": ["a.example"]});
    });
    let result = chain.add(sb, &mut Attachment::new("c2", &sb.container("c2")));
    assert_eq!(result["dns"], json!({"nameservers": ["10.0.0.54"], "search": ["a.example"]}));
}

fn two_gateways(sb: &Sandbox) {
    attached(sb, |c| c["ipam"]["ranges"] = json!([[{"subnet": "fd00:1::/64"}], [{"subnet": "fd00:2::/64"}]]));
    let mut found = addresses(&sb.node(), "br-test");
    found.sort();
    assert_eq!(found, ["fd00:1::1/64", "fd00:2::1/64"]);
}

fn mac(sb: &Sandbox, channel: &str) {
    let ns = sb.container("c1");
    let (env, args, runtime) = ("0a:00:00:00:00:01", "0a:00:00:00:00:02", "0A:00:00:00:00:03");
    let all = channel == "all";
    let chain = alone(sb, |c| {
        c["capabilities"] = json!({"mac": true});
        if all || channel == "args" {
            c["args"] = json!({"cni": {"mac": args}});
        }
    });
    let mut at = Attachment::new("c1", &ns);
    if all || channel == "env" {
        at.args = Some(format!("IgnoreUnknown=1;MAC={env}"));
    }
    if all || channel == "runtime" {
        at = at.with("mac", runtime.into());
    }
    let result = chain.add(sb, &mut at);
    let expected = match channel {
        "env" => env.to_owned(),
        "args" => args.to_owned(),
        _ => runtime.to_lowercase(),
    };
    assert_eq!(result["interfaces"][2]["mac"], expected);
    assert_eq!(link(&ns, "eth0").unwrap()["address"], expected);
}

fn cni_args(sb: &Sandbox) {
    let chain = alone(sb, |_| ());
    for (n, (args, good)) in [
        ("FOO=bar", false),
        ("FOO=bar;IgnoreUnknown=1", true),
        ("IgnoreUnknown=true;K8S_POD_NAME=x", true),
        ("FOO", false),
        ("IgnoreUnknown=maybe", false),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("c{n}");
        let mut at = Attachment::new(&id, &sb.container(&id));
        at.args = Some(args.to_owned());
        match chain.try_add(sb, &mut at) {
            Ok(_) => assert!(good, "{args} is accepted"),
            Err(outcome) => {
                assert!(!good, "{args}: {outcome}");
                assert_eq!(outcome.error().code, 999);
            }
        }
    }
}

fn route_table(sb: &Sandbox) {
    let (ns, _) = attached(sb, |c| {
        c["ipam"]["routes"] = json!([{"dst": "10.9.0.0/16", "priority": 7}, {"dst": "10.8.0.0/16", "table": 200}]);
    });
    let route = routes(&ns, "-4").into_iter().find(|r| r["dst"] == "10.9.0.0/16").expect("the route exists");
    assert_eq!(route["metric"], 7);
    let table = ns.sh(&["ip", "route", "show", "table", "200"]);
    assert!(table.contains("10.8.0.0/16 via 10.77.0.1"), "{table}");
}

fn route_metrics(sb: &Sandbox) {
    let (ns, _) = attached(sb, |c| {
        c["ipam"]["routes"] = json!([{"dst": "10.9.0.0/16", "mtu": 1300, "advmss": 1200}]);
    });
    let shown = ns.sh(&["ip", "route", "show", "10.9.0.0/16"]);
    assert!(shown.contains("mtu 1300") && shown.contains("advmss 1200"), "{shown}");
}

fn other_default(sb: &Sandbox) {
    let chain = alone(sb, |c| c["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0", "table": 200}]));
    let ns = sb.container("c1");
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    assert_eq!(default_routes(&ns, "-4"), ["10.77.0.1 dev eth0"]);
    let table = ns.sh(&["ip", "route", "show", "table", "200"]);
    assert!(table.contains("default via 10.77.0.1"), "{table}");
    chain.check(sb, &at).silent();
}

fn no_ipv6(sb: &Sandbox) {
    let node = sb.node();
    node.sh(&["ip", "link", "add", "br.test", "type", "bridge"]);
    cni_tests::kernel::set_sysctl(&node, "ipv6/conf/br.test/disable_ipv6", "1");
    let conf = |c: &mut Value| c["bridge"] = "br.test".into();
    let error = refused(sb, conf);
    error.names(&["fd00:77::1/64", "br.test", "IPv6"]);
    let way_out = error.text().split('`').nth(1).expect("a command").to_owned();
    node.sh(&way_out.split(' ').collect::<Vec<_>>());
    alone(sb, conf).add(sb, &mut Attachment::new("c1", &sb.container("c1")));
}
