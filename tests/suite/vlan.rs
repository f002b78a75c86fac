//! vlan: what it has beside what `on_parent` is about.

use cni_tests::kernel::{link, link_names};
use cni_tests::{Netns, Sandbox};
use serde_json::{Value, json};

use crate::case::{Case, common, improved};
use crate::on_parent::{VLAN, attached, chain, tried};

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        common("id_and_master_of_the_link", id),
        improved("bad_ids_are_named", bad_id),
        improved("an_id_that_is_in_use_is_named", taken),
        improved("check_compares_the_id", check_id),
        improved("a_master_that_is_down_is_named", down),
    ]
}

fn eth0(ns: &Netns) -> Value {
    link(ns, "eth0").unwrap_or_else(|| panic!("no eth0: {:?}", cni_tests::kernel::links(ns)))
}

fn id(sb: &Sandbox) {
    let _outside = VLAN.outside(sb);
    for (id, vlan) in [("c1", 0), ("c2", 7), ("c3", 4094)] {
        let (ns, _at) = attached(sb, &VLAN.with(&json!({"vlanId": vlan})), id);
        assert_eq!(eth0(&ns)["linkinfo"]["info_data"]["id"], vlan);
        assert_eq!(eth0(&ns)["link_index"], link(&sb.node(), "up0").unwrap()["ifindex"]);
        assert_eq!(eth0(&ns)["address"], link(&sb.node(), "up0").unwrap()["address"]);
    }
}

fn bad_id(sb: &Sandbox) {
    let _outside = VLAN.outside(sb);
    let ns = sb.container("c1");
    for id in [-1, 4095, 70000] {
        tried(sb, &VLAN.with(&json!({"vlanId": id})), &ns, None).error().names(&["vlanId", &id.to_string(), "4094"]);
    }
    assert_eq!(link_names(&ns), ["lo"]);
}

/// The kernel has one link for each VLAN ID of a master, in whatever namespace.
fn taken(sb: &Sandbox) {
    let _outside = VLAN.outside(sb);
    let (_ns, _at) = attached(sb, &VLAN.network(), "c1");
    tried(sb, &VLAN.network(), &sb.container("c2"), None).error().names(&["vlanId", "100", "up0", "macvlan"]);
}

fn check_id(sb: &Sandbox) {
    let _outside = VLAN.outside(sb);
    let (_ns, at) = attached(sb, &VLAN.network(), "c1");
    chain(sb, &VLAN.with(&json!({"vlanId": 7}))).check(sb, &at).error().names(&["VLAN ID", "7", "100"]);
}

fn down(sb: &Sandbox) {
    let _outside = VLAN.outside(sb);
    sb.node().sh(&["ip", "link", "set", "up0", "down"]);
    let ns = sb.container("c1");
    tried(sb, &VLAN.network(), &ns, None).error().names(&["master", "up0", "down"]);
    assert_eq!(link_names(&ns), ["lo"]);
    if sb.versions("vlan").iter().any(|version| version == "1.1.0") {
        chain(sb, &VLAN.network()).status(sb).error().names(&["master", "up0", "down"]);
    }
}
