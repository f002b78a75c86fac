//! MTUs at the edges: the kernel's own range, and the 1280 bytes that IPv6 needs.

use cni_tests::kernel::{addresses, link, sysctl};
use cni_tests::packets::ping;
use cni_tests::{Attachment, Chain, Sandbox, Snapshot, conf};
use serde_json::{Value, json};

use crate::case::{Case, common, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![improved("bridge_of_others_too_small_for_ipv6_is_named", small_bridge)];
    for plugin in ["bridge", "ptp"] {
        cases.push(common(format!("{plugin}::small_without_ipv6"), move |sb| small(sb, plugin)));
        for (label, mtu) in [("1", 1), ("67", 67), ("65536", 65536)] {
            let named = format!("{plugin}::{label}_is_out_of_range");
            cases.push(improved(named, move |sb| refused(sb, plugin, &host_local(&[conf::V4]), mtu)));
        }
        let two = [conf::V4, conf::V6];
        cases.push(improved(format!("{plugin}::small_and_an_ipv6_range"), move |sb| {
            refused(sb, plugin, &host_local(&two), 1279);
        }));
        let ipam = json!({"type": "static", "addresses": [{"address": "fd00:77::9/64", "gateway": "fd00:77::1"}]});
        cases.push(improved(format!("{plugin}::small_and_an_ipv6_address"), move |sb| {
            refused(sb, plugin, &ipam, 1279);
        }));
        cases.push(improved(format!("{plugin}::small_and_ipv6_that_ipam_chose"), move |sb| surprised(sb, plugin)));
    }
    cases
}

fn host_local(subnets: &[&str]) -> Value {
    let ranges: Vec<Value> = subnets.iter().map(|subnet| json!([{"subnet": subnet}])).collect();
    json!({"type": "host-local", "ranges": ranges})
}

fn chain(sb: &Sandbox, plugin: &str, ipam: &Value, mtu: i64) -> Chain {
    let conf = json!({"type": plugin, "bridge": "br-test", "isGateway": true, "mtu": mtu, "ipam": ipam});
    Chain::new("testnet", sb.newest(&[plugin, "host-local"]), &[conf])
}

/// The kernel gives such a link no IPv6, and so no `accept_ra` to write.
fn small(sb: &Sandbox, plugin: &str) {
    let (ns, chain) = (sb.container("c1"), chain(sb, plugin, &host_local(&[conf::V4]), 1000));
    let mut at = Attachment::new("c1", &ns);
    let result = chain.add(sb, &mut at);
    assert_eq!(link(&ns, "eth0").unwrap()["mtu"], 1000);
    let first = result["interfaces"][0]["name"].as_str().unwrap();
    assert_eq!(sysctl(&sb.node(), &format!("ipv6/conf/{first}/accept_ra")), None);
    assert!(ping(&ns, conf::V4_GATEWAY));
    chain.check(sb, &at).silent();
    chain.del(sb, &at);
}

fn refused(sb: &Sandbox, plugin: &str, ipam: &Value, mtu: i64) {
    let (node, ns) = (sb.node(), sb.container("c1"));
    let before = Snapshot::of(&[&node, &ns]);
    let failed = chain(sb, plugin, ipam, mtu).try_add(sb, &mut Attachment::new("c1", &ns));
    failed.expect_err("ADD is refused").error().names(&["mtu: ", &mtu.to_string()]);
    Snapshot::of(&[&node, &ns]).same_as(&before);
}

/// The address is known only when the links are there.
fn surprised(sb: &Sandbox, plugin: &str) {
    let (node, ns) = (sb.node(), sb.container("c1"));
    let ips = r#"[{"address":"fd00:77::9/64","gateway":"fd00:77::1"}]"#;
    let result = format!(r#"{{"cniVersion":"1.0.0","ips":{ips}}}"#);
    sb.fake("chooses", &format!("[ \"$CNI_COMMAND\" != ADD ] || echo '{result}'"));
    let links = || cni_tests::kernel::link_names(&node).into_iter().filter(|name| name != "br-test");
    let before: Vec<String> = links().collect();
    let failed = chain(sb, plugin, &json!({"type": "chooses"}), 1279).try_add(sb, &mut Attachment::new("c1", &ns));
    failed.expect_err("ADD is refused").error().names(&["mtu: 1279", "fd00:77::9/64"]);
    assert_eq!(links().collect::<Vec<_>>(), before);
    assert!(link(&ns, "eth0").is_none());
}

fn small_bridge(sb: &Sandbox) {
    let (node, ns) = (sb.node(), sb.container("c1"));
    node.sh(&["ip", "link", "add", "br-test", "type", "bridge"]);
    node.sh(&["ip", "link", "set", "br-test", "mtu", "1000"]);
    let failed = chain(sb, "bridge", &host_local(&[conf::V6]), 0).try_add(sb, &mut Attachment::new("c1", &ns));
    failed.expect_err("ADD is refused").error().names(&["fd00:77::1/64", "br-test", "1000", "1280"]);
    assert_eq!(addresses(&node, "br-test"), Vec::<String>::new());
    assert!(link(&ns, "eth0").is_none());
}
