//! ipvlan: what it has beside what `on_parent` is about.

use cni_tests::kernel::{addresses, link, link_names};
use cni_tests::packets::ping;
use cni_tests::{Netns, Sandbox};
use serde_json::{Value, json};

use crate::case::{Case, common, improved};
use crate::on_parent::{IPVLAN, attached, chain, tried};

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        common("the_chains_addresses_without_ipam", chained),
        common("neither_ipam_nor_a_chain_is_refused", no_addresses),
        improved("check_compares_the_mode", check_mode),
        improved("bad_modes_are_named", bad_mode),
    ];
    for mode in ["l2", "l3", "l3s"] {
        cases.push(common(format!("mode_{mode}"), move |sb| in_mode(sb, mode)));
    }
    cases
}

fn eth0(ns: &Netns) -> Value {
    link(ns, "eth0").unwrap()
}

/// In the layer 3 modes the container's link asks for no neighbours: its routes need no gateway, and others need one to it.
fn in_mode(sb: &Sandbox, mode: &str) {
    let outside = IPVLAN.outside(sb);
    let mut conf = IPVLAN.with(&json!({"mode": mode}));
    if mode != "l2" {
        conf["ipam"] = json!({"type": "host-local", "ranges": [[{"subnet": "10.7.0.0/24"}], [{"subnet": "fd00:7::/64"}]],
            "routes": [{"dst": "192.0.2.0/24", "scope": 253}, {"dst": "2001:db8:99::/64", "scope": 253}]});
        outside.ns.sh(&["ip", "route", "add", "10.7.0.0/24", "via", "192.0.2.1"]);
    }
    let ((one, first), (_two, at)) = (attached(sb, &conf, "c1"), attached(sb, &conf, "c2"));
    assert_eq!(eth0(&one)["linkinfo"]["info_data"]["mode"], mode);
    assert!(ping(&one, &at.ip(false)) && ping(&one, &at.ip(true)), "containers on one master reach each other");
    if mode == "l2" {
        assert!(ping(&one, "192.0.2.2") && ping(&outside.ns, &at.ip(true)));
    }
    chain(sb, &conf).check(sb, &first).silent();
    assert_eq!(eth0(&one)["address"], link(&sb.node(), "up0").unwrap()["address"]);
}

fn chained(sb: &Sandbox) {
    let outside = IPVLAN.outside(sb);
    let conf = IPVLAN.with(&json!({"ipam": null, "master": null}));
    let version = chain(sb, &conf).version().to_owned();
    let previous = json!({"cniVersion": version, "interfaces": [{"name": "up0"}],
        "ips": [{"version": "4", "address": "192.0.2.88/24", "interface": 0}], "routes": [{"dst": "198.51.100.0/24", "gw": "192.0.2.2"}]});
    let ns = sb.container("c1");
    let result = tried(sb, &conf, &ns, Some(&previous)).result();
    assert_eq!(addresses(&ns, "eth0"), ["192.0.2.88/24"]);
    assert!(ping(&ns, "192.0.2.2") && ping(&outside.ns, "192.0.2.88"));
    let of = usize::try_from(result["ips"][0]["interface"].as_u64().unwrap()).unwrap();
    assert_eq!((result["ips"].as_array().unwrap().len(), &result["interfaces"][of]["name"]), (1, &"eth0".into()));
    assert_eq!(result["routes"].as_array().unwrap().len(), 1);
    let at = cni_tests::Attachment { result: Some(result), ..cni_tests::Attachment::new("c1", &ns) };
    chain(sb, &conf).check(sb, &at).silent();
    chain(sb, &conf).del(sb, &at);
    assert_eq!(link_names(&ns), ["lo"]);
}

fn no_addresses(sb: &Sandbox) {
    let _outside = IPVLAN.outside(sb);
    tried(sb, &IPVLAN.with(&json!({"ipam": null})), &sb.container("c1"), None).error();
}

fn check_mode(sb: &Sandbox) {
    let _outside = IPVLAN.outside(sb);
    let (ns, at) = attached(sb, &IPVLAN.network(), "c1");
    ns.sh(&["ip", "link", "set", "eth0", "type", "ipvlan", "mode", "l3"]);
    chain(sb, &IPVLAN.network()).check(sb, &at).error().names(&["mode", "l2", "l3"]);
}

fn bad_mode(sb: &Sandbox) {
    let _outside = IPVLAN.outside(sb);
    let conf = IPVLAN.with(&json!({"mode": "bridge"}));
    tried(sb, &conf, &sb.container("c1"), None).error().names(&["mode", "\"bridge\"", "l3s"]);
}
