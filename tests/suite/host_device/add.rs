//! host-device: what ADD makes of the device and of IPAM's answer.

use cni_tests::kernel::{addresses, default_routes, has_flag, link, link_names};
use cni_tests::packets::ping;
use cni_tests::plugins::{VERSIONS, minimal, ready, result_of_eth0, tidy};
use cni_tests::{Attachment, Chain, Sandbox, Snapshot};
use serde_json::json;

use super::{attached, call, chain, device, is_back, layer2, network, reserved};
use crate::case::{Case, common, improved, newer};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        common("the_device_is_the_containers_interface", moved),
        common("its_own_name_is_the_alias", |sb| {
            device(sb);
            let (ns, _at) = attached(sb, &layer2(), "c1");
            assert_eq!(link(&ns, "eth0").unwrap()["ifalias"], "host0");
        }),
        common("layer_2_only", layer_2),
        newer("the_container_may_have_an_interface_of_the_devices_name", same_name),
        improved("the_owner_is_on_the_device", |sb| {
            device(sb);
            let (ns, _at) = attached(sb, &layer2(), "c1");
            let altname = &link(&ns, "eth0").unwrap()["altnames"][0];
            assert!(altname.as_str().is_some_and(|name| name.starts_with("cni-device-")), "{altname}");
        }),
        improved("the_configurations_dns_or_ipams", dns),
        improved("behind_another_plugins_result", behind),
        improved("a_repeated_add_leaves_the_first_alone", repeat),
        improved("rollback_ipam_fails", |sb| rollback(sb, "fails", &["no addresses"])),
        improved("rollback_route_without_next_hop", |sb| rollback(sb, "odd", &["10.99.0.9"])),
        improved("lo_is_refused_and_stays", lo),
    ];
    for version in VERSIONS {
        cases.push(common(format!("result_{version}"), move |sb| result(sb, version)));
    }
    cases
}

fn moved(sb: &Sandbox) {
    device(sb);
    let mac = link(&sb.node(), "host0").unwrap()["address"].clone();
    let (ns, at) = attached(sb, &network(), "c1");
    assert_eq!(link_names(&sb.node()), ["lo", "host1"]);
    let found = link(&ns, "eth0").unwrap();
    assert!(has_flag(&found, "UP") && found["address"] == mac, "{found}");
    assert_eq!(addresses(&ns, "eth0"), ["10.23.0.2/24", "fd00:23::2/64"]);
    assert_eq!(default_routes(&ns, "-4"), ["10.23.0.1 dev eth0"]);
    assert_eq!(default_routes(&ns, "-6"), ["fd00:23::1 dev eth0"]);
    sb.node().sh(&["ip", "addr", "add", "10.23.0.1/24", "dev", "host1"]);
    assert!(ping(&ns, "10.23.0.1"));
    call(sb, "CHECK", &network(), &at).silent();
    call(sb, "DEL", &network(), &at).silent();
    assert!(link_names(&sb.node()).contains(&"host0".to_owned()));
    assert_eq!(link_names(&ns), ["lo"]);
    assert!(reserved().is_empty(), "{:?}", reserved());
}

fn layer_2(sb: &Sandbox) {
    device(sb);
    let (ns, at) = attached(sb, &layer2(), "c1");
    let found = link(&ns, "eth0").unwrap();
    assert!(has_flag(&found, "UP"));
    let interfaces = &at.result.as_ref().unwrap()["interfaces"];
    assert_eq!(interfaces[0]["name"], "eth0");
    assert_eq!((&interfaces[0]["mac"], &interfaces[0]["sandbox"]), (&found["address"], &json!(ns.path())));
    call(sb, "CHECK", &layer2(), &at).silent();
    call(sb, "DEL", &layer2(), &at).silent();
}

/// The node's eth0 as the container's net1, beside an eth0 of its own.
fn same_name(sb: &Sandbox) {
    let node = sb.node();
    node.sh(&["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "host1"]);
    let ns = sb.container("c1");
    ns.sh(&["ip", "link", "add", "eth0", "type", "bridge"]);
    let conf = json!({"type": "host-device", "device": "eth0"});
    let mut at = Attachment::new("c1", &ns).on("net1");
    chain(sb, &conf).add(sb, &mut at);
    assert_eq!(link_names(&node), ["lo", "host1"]);
    assert!(link_names(&ns).contains(&"net1".to_owned()), "{:?}", link_names(&ns));
    call(sb, "DEL", &conf, &at).silent();
    assert!(link_names(&node).contains(&"eth0".to_owned()), "{:?}", link_names(&node));
    assert_eq!(link_names(&ns), ["lo", "eth0"]);
}

fn dns(sb: &Sandbox) {
    device(sb);
    std::fs::write("/run/resolv.conf", "nameserver 10.0.0.53\n").unwrap();
    let mut conf = network();
    conf["ipam"]["resolvConf"] = "/run/resolv.conf".into();
    let (_ns, at) = attached(sb, &conf, "c1");
    assert_eq!(at.result.as_ref().unwrap()["dns"], json!({"nameservers": ["10.0.0.53"]}));
    call(sb, "DEL", &conf, &at).silent();
    conf["dns"] = json!({"nameservers": ["10.0.0.54"]});
    let (_ns, at) = attached(sb, &conf, "c2");
    assert_eq!(at.result.unwrap()["dns"], json!({"nameservers": ["10.0.0.54"]}));
}

fn behind(sb: &Sandbox) {
    device(sb);
    let ns = sb.container("c1");
    let first = json!({"type": "loopback"});
    let list = Chain::new("devnet", sb.newest(&["host-device", "loopback"]), &[first, layer2()]);
    let mut at = Attachment::new("c1", &ns);
    let result = list.add(sb, &mut at);
    assert_eq!((&result["interfaces"][0]["name"], &result["interfaces"][1]["name"]), (&json!("eth0"), &json!("lo")));
    list.check(sb, &at).silent();
    list.del(sb, &at);
    is_back(sb, "host0");
}

fn repeat(sb: &Sandbox) {
    device(sb);
    let (ns, at) = attached(sb, &network(), "c1");
    let before = Snapshot::of(&[&sb.node(), &ns]);
    let error = call(sb, "ADD", &network(), &at).error();
    error.names(&["eth0", "already"]);
    Snapshot::of(&[&sb.node(), &ns]).same_as(&before);
    // Another container wants it: the message says who has it.
    let other = sb.container("c2");
    let error = chain(sb, &network()).try_add(sb, &mut Attachment::new("c2", &other)).expect_err("it is away").error();
    error.names(&["host0", "c1", "devnet"]);
    Snapshot::of(&[&sb.node(), &ns]).same_as(&before);
    call(sb, "CHECK", &network(), &at).silent();
}

fn rollback(sb: &Sandbox, ipam: &str, named: &[&str]) {
    device(sb);
    let node = sb.node();
    node.sh(&["ip", "addr", "add", "192.0.2.7/24", "dev", "host0"]);
    node.sh(&["ip", "link", "set", "host0", "up"]);
    sb.fake("fails", r#"[ $CNI_COMMAND != ADD ] || { echo '{"code":100,"msg":"no addresses"}'; exit 1; }"#);
    sb.fake(
        "odd",
        r#"[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.0.0","ips":[{"address":"10.23.0.5/24"}],
        "routes":[{"dst":"10.98.0.0/16","gw":"10.99.0.9"}]}'"#,
    );
    let ns = sb.container("c1");
    let before = Snapshot::of(&[&node]);
    let conf = json!({"type": "host-device", "device": "host0", "ipam": {"type": ipam}});
    let list = Chain::new("devnet", "1.0.0", &[conf]);
    list.try_add(sb, &mut Attachment::new("c1", &ns)).expect_err("IPAM").error().names(named);
    Snapshot::of(&[&node]).same_but(&before, &["/run/cni"]);
    assert_eq!(link_names(&ns), ["lo"]);
    is_back(sb, "host0");
}

fn lo(sb: &Sandbox) {
    let ns = sb.container("c1");
    let before = Snapshot::of(&[&sb.node(), &ns]);
    let list = chain(sb, &json!({"type": "host-device", "device": "lo"}));
    list.try_add(sb, &mut Attachment::new("c1", &ns)).expect_err("lo stays").error().names(&["lo"]);
    Snapshot::of(&[&sb.node(), &ns]).same_but(&before, &["/run/cni"]);
}

fn result(sb: &Sandbox, version: &str) {
    sb.needs("host-device", version);
    device(sb);
    let ns = sb.container("c1");
    let mut conf = minimal("host-device", version);
    conf["device"] = "host0".into();
    conf["ipam"] = network()["ipam"].clone();
    let result = tidy(ready(sb, "host-device", "ADD", version, &ns).conf(&conf).run().result());
    let ips = [("10.23.0.2/24", "10.23.0.1"), ("fd00:23::2/64", "fd00:23::1")];
    assert_eq!(result, result_of_eth0(version, &ns, ips));
}
