//! Results at every version of the spec, written down from the spec: nothing here was copied from a plugin's output.

use cni_tests::{Sandbox, conf};
use serde_json::{Value, json};

use crate::case::{Case, common, newer};
use cni_tests::plugins::{VERSIONS, minimal, previous, ready, tidy};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for version in VERSIONS {
        cases.push(common(format!("host-local::result_{version}"), move |sb| host_local(sb, version)));
        cases.push(common(format!("bridge::result_{version}"), move |sb| bridge(sb, version)));
        cases.push(common(format!("portmap::passes_on_{version}"), move |sb| pass_through(sb, version)));
    }
    cases.extend([
        common("absent_is_0.1.0", absent),
        common("old_results_keep_one_address_per_family", one_per_family),
        common("prev_result_of_the_same_family", same_family),
        common("prev_result_of_another_family_is_refused", other_family),
        common("prev_result_without_version", versionless),
        common("l2_bridge_at_0.2.0_is_refused", l2),
        newer("new_interface_fields_pass_through", interface_fields),
        newer("new_route_fields_pass_through", route_fields),
    ]);
    cases
}

fn with_routes(version: &str) -> Value {
    let mut conf = conf::host_local(version, &["10.1.2.0/24", "fd00:5::/64"]);
    conf["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0"}, {"dst": "fd00:9::/32", "gw": "fd00:5::9"}]);
    conf
}

/// The two addresses and two routes of [`with_routes`] in a version's shape.
fn expected(version: &str, interface: Option<u32>) -> Value {
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "fd00:9::/32", "gw": "fd00:5::9"}]);
    let mut ips = json!([
        {"address": "10.1.2.2/24", "gateway": "10.1.2.1"}, {"address": "fd00:5::2/64", "gateway": "fd00:5::1"}
    ]);
    for (ip, family) in ips.as_array_mut().unwrap().iter_mut().zip(["4", "6"]) {
        if let Some(interface) = interface {
            ip["interface"] = interface.into();
        }
        if version < "1.0.0" {
            ip["version"] = family.into();
        }
    }
    match version {
        "0.1.0" | "0.2.0" => json!({
            "cniVersion": version, "dns": {},
            "ip4": {"ip": "10.1.2.2/24", "gateway": "10.1.2.1", "routes": [{"dst": "0.0.0.0/0"}]},
            "ip6": {"ip": "fd00:5::2/64", "gateway": "fd00:5::1", "routes": [{"dst": "fd00:9::/32", "gw": "fd00:5::9"}]}
        }),
        _ if version < "1.0.0" => json!({"cniVersion": version, "ips": ips, "routes": routes, "dns": {}}),
        _ => json!({"cniVersion": version, "ips": ips, "routes": routes}),
    }
}

fn host_local(sb: &Sandbox, version: &str) {
    sb.needs("host-local", version);
    let ns = sb.container("c1");
    let call = ready(sb, "host-local", "ADD", version, &ns).conf(&with_routes(version));
    assert_eq!(tidy(call.run().result()), expected(version, None));
}

fn bridge(sb: &Sandbox, version: &str) {
    sb.needs("bridge", version);
    let ns = sb.container("c1");
    let mut conf = with_routes(version);
    conf["type"] = "bridge".into();
    conf["bridge"] = "br-test".into();
    conf["ipam"]["type"] = "host-local".into();
    let mut result = tidy(ready(sb, "bridge", "ADD", version, &ns).conf(&conf).run().result());
    let mut want = expected(version, (version >= "0.3.0").then_some(2));
    if version >= "0.3.0" {
        interfaces(&mut result, &ns.path());
        want["interfaces"] = json!(["br-test node", "veth node", "eth0 container"]);
    }
    assert_eq!(result, want);
}

/// Replaces the interfaces by words, after a look at what differs from run to run.
fn interfaces(result: &mut Value, netns: &str) {
    let list = result["interfaces"].as_array().cloned().unwrap_or_default();
    let words = list.iter().map(|interface| {
        let name = interface["name"].as_str().unwrap();
        let mac = interface["mac"].as_str().unwrap();
        assert!(mac.len() == 17 && mac == mac.to_lowercase(), "MAC {mac}");
        let veth = name.len() == 12 && name.starts_with("veth");
        let place = match interface["sandbox"].as_str() {
            None => "node",
            Some(path) => {
                assert_eq!(path, netns, "the sandbox is CNI_NETNS, word for word");
                "container"
            }
        };
        format!("{} {place}", if veth { "veth" } else { name })
    });
    result["interfaces"] = words.collect();
}

fn pass_through(sb: &Sandbox, version: &str) {
    sb.needs("portmap", version);
    let ns = sb.container("c1");
    let result = ready(sb, "portmap", "ADD", version, &ns).run().result();
    assert_eq!(tidy(result), previous(version));
}

fn absent(sb: &Sandbox) {
    let ns = sb.container("c1");
    for version in [Value::Null, "".into()] {
        let mut conf = with_routes("0.1.0");
        conf["cniVersion"] = version;
        let result = ready(sb, "host-local", "ADD", "0.1.0", &ns).conf(&conf).run().result();
        assert_eq!(result, expected("0.1.0", None));
        ready(sb, "host-local", "DEL", "0.1.0", &ns).conf(&conf).run().silent();
        std::fs::remove_dir_all("/var/lib/cni/networks").unwrap();
    }
    let mut conf = with_routes("0.1.0");
    conf.as_object_mut().unwrap().remove("cniVersion");
    assert_eq!(ready(sb, "host-local", "ADD", "0.1.0", &ns).conf(&conf).run().result(), expected("0.1.0", None));
}

fn one_per_family(sb: &Sandbox) {
    let ns = sb.container("c1");
    let conf = conf::host_local("0.2.0", &["10.1.2.0/24", "10.1.3.0/24"]);
    ready(sb, "host-local", "ADD", "0.2.0", &ns).conf(&conf).run().error().names(&["0.2.0"]);
    let conf = conf::host_local("0.3.0", &["10.1.2.0/24", "10.1.3.0/24"]);
    let result = ready(sb, "host-local", "ADD", "0.3.0", &ns).conf(&conf).run().result();
    assert_eq!(result["ips"].as_array().map(Vec::len), Some(2), "{result}");
}

/// portmap without mappings: prevResult in, prevResult out at the configuration's version.
fn passed(sb: &Sandbox, version: &str, prev: &Value) -> cni_tests::Outcome {
    let mut conf = minimal("portmap", version);
    conf["prevResult"] = prev.clone();
    ready(sb, "portmap", "ADD", version, &sb.node()).env("CNI_NETNS", "/run/netns/none").conf(&conf).run()
}

fn same_family(sb: &Sandbox) {
    for (version, from) in [("0.1.0", "0.2.0"), ("0.2.0", "0.1.0"), ("0.4.0", "0.3.0"), ("0.3.1", "0.4.0")] {
        assert_eq!(passed(sb, version, &previous(from)).result(), previous(version), "{from} at {version}");
    }
    if sb.versions("portmap").iter().any(|v| v == "1.1.0") {
        assert_eq!(tidy(passed(sb, "1.0.0", &previous("1.1.0")).result()), previous("1.0.0"));
        assert_eq!(tidy(passed(sb, "1.1.0", &previous("1.0.0")).result()), previous("1.1.0"));
    }
}

fn other_family(sb: &Sandbox) {
    for (version, from) in [("1.0.0", "0.4.0"), ("0.4.0", "1.0.0"), ("0.4.0", "0.2.0"), ("0.2.0", "0.3.0")] {
        let error = passed(sb, version, &previous(from)).error();
        assert_eq!(error.code, 999, "{error:?}");
        error.names(&[from]);
    }
}

fn versionless(sb: &Sandbox) {
    for version in ["0.2.0", "0.4.0", "1.0.0"] {
        let mut prev = previous(version);
        prev.as_object_mut().unwrap().remove("cniVersion");
        assert_eq!(tidy(passed(sb, version, &prev).result()), previous(version));
    }
}

fn l2(sb: &Sandbox) {
    let ns = sb.container("c1");
    for version in ["0.1.0", "0.2.0"] {
        ready(sb, "bridge", "ADD", version, &ns).run().error();
        ready(sb, "bridge", "DEL", version, &ns).run().silent();
    }
}

fn interface_fields(sb: &Sandbox) {
    sb.needs("portmap", "1.1.0");
    let interface = json!({
        "name": "eth0", "mac": "0a:00:00:00:00:01", "sandbox": "/run/netns/c1", "mtu": 1400,
        "socketPath": "/run/s", "pciID": "0000:00:1f.6"
    });
    let prev = json!({
        "cniVersion": "1.1.0", "interfaces": [interface], "ips": [{"address": "10.1.2.3/24", "interface": 0}]
    });
    assert_eq!(passed(sb, "1.1.0", &prev).result(), prev);
}

fn route_fields(sb: &Sandbox) {
    sb.needs("host-local", "1.1.0");
    let ns = sb.container("c1");
    let mut conf = conf::host_local("1.1.0", &["10.1.2.0/24"]);
    let routes = json!([
        {"dst": "10.9.0.0/16", "mtu": 1400, "advmss": 1300, "priority": 7, "table": 200, "scope": 0}
    ]);
    conf["ipam"]["routes"] = routes.clone();
    let result = ready(sb, "host-local", "ADD", "1.1.0", &ns).conf(&conf).run().result();
    assert_eq!(result["routes"], routes);
}
