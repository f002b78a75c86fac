//! bridge: keys that the Go plugin doesn't have: ipMasqFamilies, hostInterfaceName, removeEmptyBridge.

use std::sync::atomic::{AtomicUsize, Ordering};

use cni_tests::conf::{self, Backend};
use cni_tests::kernel::{link, link_names};
use cni_tests::packets::ping;
use cni_tests::parallel::at_once;
use cni_tests::{Attachment, Chain, Netns, Sandbox, Snapshot, rules};
use serde_json::{Value, json};

use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        improved("host_interface_name", host_name),
        improved("host_interface_name_collision", collision),
        improved("host_interface_name_refused", bad_templates),
        improved("remove_empty_bridge", removed),
        improved("remove_empty_bridge_gc", removed_by_gc),
        improved("remove_empty_bridge_keeps_one_with_another_port", kept),
        improved("remove_empty_bridge_races_with_add", race),
        improved("owner_is_the_links_alias", alias),
    ];
    for backend in Backend::ALL {
        for (family, other) in [("ipv4", "ipv6"), ("ipv6", "ipv4")] {
            let name = format!("{}::ip_masq_families_{family}", backend.name());
            cases.push(improved(name, move |sb| families(sb, backend, family, other)));
        }
    }
    let bad: [(&str, Value, &[&str]); 2] = [
        ("ip_masq_families_unknown", json!({"ipMasqFamilies": ["ip6"]}), &["ipMasqFamilies", "ip6"]),
        ("ip_masq_families_none", json!({"ipMasq": true, "ipMasqFamilies": []}), &["ipMasq", "ipMasqFamilies"]),
    ];
    cases.extend(bad.map(|(label, keys, named)| {
        improved(format!("refuses_{label}"), move |sb: &Sandbox| refused(sb, &keys, named))
    }));
    cases
}

fn chain(sb: &Sandbox, backend: Option<Backend>, keys: &Value) -> Chain {
    let mut bridge = backend.map_or_else(conf::bridge, conf::masquerading);
    for (key, value) in keys.as_object().unwrap() {
        bridge[key] = value.clone();
    }
    Chain::new("testnet", sb.newest(&["bridge", "host-local"]), &[bridge])
}

fn attach(sb: &Sandbox, chain: &Chain, id: &str) -> (Netns, Attachment) {
    let ns = sb.container(id);
    let mut at = Attachment::new(id, &ns);
    chain.add(sb, &mut at);
    (ns, at)
}

fn host_end(at: &Attachment) -> &str {
    at.result.as_ref().unwrap()["interfaces"][1]["name"].as_str().unwrap()
}

fn refused(sb: &Sandbox, keys: &Value, named: &[&str]) {
    let ns = sb.container("c9");
    let before = Snapshot::of(&[&sb.node(), &ns]);
    let failed = chain(sb, None, keys).try_add(sb, &mut Attachment::new("c9", &ns));
    failed.expect_err("ADD is refused").error().names(named);
    Snapshot::of(&[&sb.node(), &ns]).same_as(&before);
}

/// The rules speak of the one family's address and not of the other's; CHECK agrees, DEL leaves nothing.
fn families(sb: &Sandbox, backend: Backend, family: &str, other: &str) {
    let chain = chain(sb, Some(backend), &json!({"ipMasqFamilies": [family]}));
    let (_, first) = attach(sb, &chain, "first");
    chain.del(sb, &first);
    let before = Snapshot::of(&[&sb.node()]);
    let (_ns, at) = attach(sb, &chain, "c1");
    let naming = |family: &str| rules::naming(&sb.node(), &at.ip(family == "ipv6"));
    assert!(!naming(family).is_empty(), "{family} is masqueraded");
    assert!(naming(other).is_empty(), "{other} is not: {:?}", naming(other));
    chain.check(sb, &at).silent();
    chain.del(sb, &at);
    Snapshot::of(&[&sb.node()]).same_but(&before, &["last_reserved_ip", ".host-local"]);
}

fn host_name(sb: &Sandbox) {
    let chain = chain(sb, None, &json!({"hostInterfaceName": "k{container}{ifname}"}));
    let (ns, at) = attach(sb, &chain, "3f2a");
    assert_eq!(host_end(&at), "k3f2aeth0");
    assert!(link(&sb.node(), "k3f2aeth0").is_some());
    assert!(ping(&ns, conf::V4_GATEWAY));
    chain.check(sb, &at).silent();
    chain.del(sb, &at.nowhere());
    assert!(link(&sb.node(), "k3f2aeth0").is_none());
}

/// A `{hash}` gives another name; without one the error says whose it is.
fn collision(sb: &Sandbox) {
    let hashed = chain(sb, None, &json!({"hostInterfaceName": "v-{hash}"}));
    let (_, at) = attach(sb, &hashed, "c1");
    let name = host_end(&at).to_owned();
    hashed.del(sb, &at);
    sb.node().sh(&["ip", "link", "add", &name, "type", "bridge"]);
    let (_, at) = attach(sb, &hashed, "c2");
    let again = Attachment::new("c1", &sb.container("again"));
    let mut again = again;
    hashed.add(sb, &mut again);
    assert_ne!(host_end(&again), name);
    assert_ne!(host_end(&again), host_end(&at));
    let plain = chain(sb, None, &json!({"hostInterfaceName": "v{container}"}));
    sb.node().sh(&["ip", "link", "add", "vc3", "type", "bridge"]);
    let ns = sb.container("c3");
    plain.try_add(sb, &mut Attachment::new("c3", &ns)).expect_err("taken").error().names(&[
        "hostInterfaceName \"v{container}\"",
        "\"vc3\"",
        "bridge",
        "{hash}",
        "{ifname}",
    ]);
    assert!(link(&ns, "eth0").is_none());
}

fn bad_templates(sb: &Sandbox) {
    let ns = sb.container("c1");
    let before = Snapshot::of(&[&sb.node(), &ns]);
    for (template, named) in [
        ("eth-{ifname}", ["{hash}", "{container}"]),
        ("{nope}{hash}", ["{nope}", "{ifname}"]),
        ("much-too-long-{hash}", ["hostInterfaceName", "15 bytes"]),
        ("a b{hash}", ["hostInterfaceName", "white space"]),
        ("v%d{container}", ["hostInterfaceName", "'%'"]),
    ] {
        let chain = chain(sb, None, &json!({"hostInterfaceName": template}));
        chain.try_add(sb, &mut Attachment::new("c1", &ns)).expect_err("refused").error().names(&named);
        if chain.version() >= "1.1.0" {
            chain.status(sb).error().names(&named);
        }
    }
    // One that is too long for this container only.
    let chain = chain(sb, None, &json!({"hostInterfaceName": "{ifname}-{hash}"}));
    let mut long = Attachment::new("c1", &ns).on("longname");
    chain.try_add(sb, &mut long).expect_err("refused").error().names(&["hostInterfaceName", "longname", "15 bytes"]);
    Snapshot::of(&[&sb.node(), &ns]).same_as(&before);
}

fn removed(sb: &Sandbox) {
    let chain = chain(sb, None, &json!({"removeEmptyBridge": true}));
    let (_, one) = attach(sb, &chain, "c1");
    let (_, two) = attach(sb, &chain, "c2");
    chain.del(sb, &one);
    assert!(link(&sb.node(), "br-test").is_some(), "c2 is still on it");
    chain.del(sb, &two);
    assert!(link(&sb.node(), "br-test").is_none());
    chain.del(sb, &two);
}

fn removed_by_gc(sb: &Sandbox) {
    let chain = chain(sb, None, &json!({"removeEmptyBridge": true}));
    let _ = (attach(sb, &chain, "c1"), attach(sb, &chain, "c2"));
    chain.gc(sb, &[("c2", "eth0")]).silent();
    assert!(link(&sb.node(), "br-test").is_some(), "c2 is valid");
    chain.gc(sb, &[]).silent();
    assert!(link(&sb.node(), "br-test").is_none());
}

fn kept(sb: &Sandbox) {
    let chain = chain(sb, None, &json!({"removeEmptyBridge": true}));
    let (_, at) = attach(sb, &chain, "c1");
    let node = sb.node();
    node.sh(&["ip", "link", "add", "up0", "master", "br-test", "type", "veth", "peer", "name", "up1"]);
    chain.del(sb, &at);
    assert!(link(&node, "br-test").is_some(), "a port of another program is on it");
}

/// Containers that come and go at the same time: each one that came is on the bridge and reaches its gateway.
fn race(sb: &Sandbox) {
    let chain = chain(sb, None, &json!({"removeEmptyBridge": true}));
    let spaces: Vec<_> = (0..4).map(|n| sb.container(&format!("c{n}"))).collect();
    let rounds = AtomicUsize::new(0);
    at_once(4, |n| {
        for _ in 0..12 {
            let mut at = Attachment::new(&spaces[n].name, &spaces[n]);
            chain.add(sb, &mut at);
            assert!(ping(&spaces[n], conf::V4_GATEWAY), "c{n} reaches its gateway");
            chain.del(sb, &at);
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    });
    assert_eq!(rounds.into_inner(), 48);
    let left = link_names(&sb.node());
    assert_eq!(left, ["lo"], "the last one out removes the bridge");
}

fn alias(sb: &Sandbox) {
    let chain = chain(sb, None, &json!({}));
    let (_, at) = attach(sb, &chain, "c1");
    assert_eq!(link(&sb.node(), host_end(&at)).unwrap()["ifalias"], "cni testnet c1 eth0");
}
