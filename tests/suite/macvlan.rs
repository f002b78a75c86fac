//! macvlan: what it has beside what `on_parent` is about.

use cni_tests::kernel::{addresses, has_flag, link, link_names, routes, set_sysctl, sysctl};
use cni_tests::packets::ping;
use cni_tests::{Attachment, Netns, Sandbox, Snapshot};
use serde_json::{Value, json};

use crate::case::{Case, common, improved, newer};
use crate::on_parent::{MACVLAN, attached, chain, tried};

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        newer("mac_by_key_argument_and_capability", mac),
        improved("mac_is_the_same_when_the_container_comes_again", stable_mac),
        improved("mac_that_cannot_be_is_named", bad_mac),
        improved("private_links_do_not_hear_each_other", private),
        improved("passthru_has_the_masters_mac_or_gives_it_one", passthru),
        improved("check_compares_the_mode", check_mode),
        improved("bad_keys_are_named", bad_keys),
        newer("bcqueuelen_reaches_the_kernel", bc_queue_len),
        improved("shim_connects_node_and_containers", shim),
        improved("shim_goes_with_the_last_container", shim_counts),
        improved("shim_is_checked", shim_check),
        improved("shim_is_collected", shim_gc),
        improved("shim_answers_for_its_own_address_only", shim_is_quiet),
        improved("shim_of_a_failed_add_goes", shim_rollback),
        improved("shim_name_that_is_taken_is_named", shim_taken),
    ];
    for mode in ["bridge", "private", "vepa", "passthru"] {
        cases.push(common(format!("mode_{mode}"), move |sb| in_mode(sb, mode)));
    }
    cases
}

fn eth0(ns: &Netns) -> Value {
    link(ns, "eth0").unwrap()
}

fn in_mode(sb: &Sandbox, mode: &str) {
    let outside = MACVLAN.outside(sb);
    let conf = MACVLAN.with(&json!({"mode": mode}));
    let (ns, at) = attached(sb, &conf, "c1");
    assert_eq!(eth0(&ns)["linkinfo"]["info_data"]["mode"], mode);
    assert!(ping(&ns, "192.0.2.2") && ping(&outside.ns, &at.ip(true)));
    chain(sb, &conf).check(sb, &at).silent();
}

fn mac(sb: &Sandbox) {
    let _outside = MACVLAN.outside(sb);
    let mut conf = MACVLAN.with(&json!({"mac": "02:00:00:00:00:01", "capabilities": {"mac": true}}));
    let made = |conf: &Value, args: Option<&str>, capability: Option<&str>| {
        let ns = sb.container("c1");
        let mut at = Attachment::new("c1", &ns);
        at.args = args.map(str::to_owned);
        let mut at = capability.into_iter().fold(at, |at, mac| at.with("mac", mac.into()));
        let result = chain(sb, conf).add(sb, &mut at);
        chain(sb, conf).check(sb, &at).silent();
        let mac = eth0(&ns)["address"].as_str().unwrap().to_owned();
        assert_eq!(result["interfaces"][0]["mac"], mac);
        chain(sb, conf).del(sb, &at);
        ns.delete();
        mac
    };
    assert_eq!(made(&conf, None, None), "02:00:00:00:00:01");
    assert_eq!(made(&conf, Some("IgnoreUnknown=1;MAC=02:00:00:00:00:02"), None), "02:00:00:00:00:02");
    let both = made(&conf, Some("IgnoreUnknown=1;MAC=02:00:00:00:00:02"), Some("02:00:00:00:00:03"));
    assert_eq!(both, "02:00:00:00:00:03");
    conf["mac"] = "0200.0000.0004".into();
    assert_eq!(made(&conf, None, None), "02:00:00:00:00:04");
}

/// A DHCP server, a switch's port security and the neighbours' tables know a container by its address.
fn stable_mac(sb: &Sandbox) {
    let _outside = MACVLAN.outside(sb);
    let life = |id: &str| {
        let (ns, at) = attached(sb, &MACVLAN.network(), id);
        let mac = eth0(&ns)["address"].as_str().unwrap().to_owned();
        chain(sb, &MACVLAN.network()).del(sb, &at);
        ns.delete();
        mac
    };
    let first = life("c1");
    assert_eq!(life("c1"), first);
    assert_ne!(life("c2"), first);
    let byte = u8::from_str_radix(&first[..2], 16).unwrap();
    assert_eq!(byte & 3, 2, "{first} is not locally administered unicast");
}

fn bad_mac(sb: &Sandbox) {
    let _outside = MACVLAN.outside(sb);
    let ns = sb.container("c1");
    for (mac, named) in [("x", "hexadecimal"), ("01:00:5e:00:00:01", "multicast"), ("00:00:00:00:00:00", "zeros")] {
        tried(sb, &MACVLAN.with(&json!({"mac": mac})), &ns, None).error().names(&["mac", mac, named]);
    }
    let (_other, _at) = attached(sb, &MACVLAN.with(&json!({"mac": "02:00:00:00:00:01"})), "c2");
    let error = tried(sb, &MACVLAN.with(&json!({"mac": "02:00:00:00:00:01"})), &ns, None).error();
    error.names(&["eth0", "hardware address"]);
    assert_eq!(link_names(&ns), ["lo"]);
}

fn private(sb: &Sandbox) {
    let outside = MACVLAN.outside(sb);
    let conf = MACVLAN.with(&json!({"mode": "private"}));
    let ((one, _), (_two, at)) = (attached(sb, &conf, "c1"), attached(sb, &conf, "c2"));
    assert!(ping(&outside.ns, &at.ip(false)));
    assert!(!one.holds(&["ping", "-n", "-q", "-c", "1", "-W", "1", &at.ip(false)]));
}

fn passthru(sb: &Sandbox) {
    let outside = MACVLAN.outside(sb);
    let masters = || link(&sb.node(), "up0").unwrap()["address"].clone();
    let own = masters();
    let conf = MACVLAN.with(&json!({"mode": "passthru"}));
    let (ns, at) = attached(sb, &conf, "c1");
    assert_eq!(eth0(&ns)["address"], own);
    chain(sb, &conf).del(sb, &at);
    let conf = MACVLAN.with(&json!({"mode": "passthru", "mac": "02:00:00:00:00:07"}));
    let (ns, at) = attached(sb, &conf, "c2");
    assert_eq!((eth0(&ns)["address"].as_str(), masters()), (Some("02:00:00:00:00:07"), "02:00:00:00:00:07".into()));
    assert_eq!(at.result.as_ref().unwrap()["interfaces"][0]["mac"], "02:00:00:00:00:07");
    assert!(ping(&ns, "192.0.2.2") && ping(&outside.ns, &at.ip(false)));
    chain(sb, &conf).check(sb, &at).silent();
    tried(sb, &conf, &sb.container("c3"), None).error().names(&["passthru", "up0"]);
    chain(sb, &conf).del(sb, &at);
    assert_eq!(masters(), own);
}

fn check_mode(sb: &Sandbox) {
    let _outside = MACVLAN.outside(sb);
    let (ns, at) = attached(sb, &MACVLAN.network(), "c1");
    ns.sh(&["ip", "link", "set", "eth0", "type", "macvlan", "mode", "vepa"]);
    chain(sb, &MACVLAN.network()).check(sb, &at).error().names(&["mode", "bridge", "vepa"]);
}

fn bad_keys(sb: &Sandbox) {
    let _outside = MACVLAN.outside(sb);
    let ns = sb.container("c1");
    for (keys, named) in [
        (json!({"mode": "l2"}), &["mode", "\"l2\"", "private", "passthru"][..]),
        (json!({"bcqueuelen": -1}), &["bcqueuelen", "-1"]),
        (json!({"hostShim": {}}), &["hostShim", "addresses"]),
        (json!({"hostShim": {"addresses": ["127.0.0.1"]}}), &["hostShim", "127.0.0.1"]),
        (json!({"hostShim": {"addresses": ["192.0.2.9"]}, "mode": "vepa"}), &["hostShim", "bridge"]),
        (json!({"hostShim": {"addresses": ["192.0.2.9"]}, "linkInContainer": true}), &["hostShim", "linkInContainer"]),
        (json!({"hostShim": {"addresses": ["192.0.2.9"]}, "ipam": null}), &["hostShim", "ipam"]),
    ] {
        tried(sb, &MACVLAN.with(&keys), &ns, None).error().names(named);
    }
    assert_eq!(link_names(&ns), ["lo"]);
}

fn bc_queue_len(sb: &Sandbox) {
    let _outside = MACVLAN.outside(sb);
    let (ns, _at) = attached(sb, &MACVLAN.with(&json!({"bcqueuelen": 2000})), "c1");
    assert_eq!(eth0(&ns)["linkinfo"]["info_data"]["bcqueuelen"], 2000);
}

const SHIM: [&str; 2] = ["192.0.2.9", "2001:db8:99::9"];

fn with_shim() -> Value {
    MACVLAN.with(&json!({"hostShim": {"addresses": ["192.0.2.9/24", "2001:db8:99::9"]}}))
}

/// The shim's name: the node's second macvlan link would be a mistake.
fn shim_name(sb: &Sandbox) -> Option<String> {
    let mut names = link_names(&sb.node()).into_iter().filter(|name| name.starts_with("shim"));
    let found = names.next();
    assert_eq!(names.next(), None);
    found
}

fn shim(sb: &Sandbox) {
    let outside = MACVLAN.outside(sb);
    let (ns, at) = attached(sb, &with_shim(), "c1");
    for (address, v6) in SHIM.iter().zip([false, true]) {
        assert!(ping(&ns, address), "the container can't reach {address} of the node");
        assert!(ping(&sb.node(), &at.ip(v6)), "the node can't reach {}", at.ip(v6));
        assert!(ping(&outside.ns, &at.ip(v6)));
    }
    assert!(ping(&sb.node(), "192.0.2.2"), "the node's way to the rest of the network is as it was");
    let name = shim_name(sb).unwrap();
    assert_eq!(addresses(&sb.node(), &name), ["192.0.2.9/32", "2001:db8:99::9/128"]);
    let reported = &at.result.as_ref().unwrap()["interfaces"][1];
    assert_eq!((&reported["name"], &reported["sandbox"]), (&name.as_str().into(), &Value::Null));
    chain(sb, &with_shim()).check(sb, &at).silent();
}

fn shim_counts(sb: &Sandbox) {
    let _outside = MACVLAN.outside(sb);
    let before = Snapshot::of(&[&sb.node()]);
    let all = ["c1", "c2", "c3"].map(|id| attached(sb, &with_shim(), id));
    let name = shim_name(sb).unwrap();
    let to_containers = || routes(&sb.node(), "-4").iter().filter(|route| route["dev"] == name.as_str()).count();
    assert_eq!(to_containers(), 3);
    // Without namespace, result and the key itself.
    for (left, (_, at)) in [2, 1].iter().zip(&all) {
        let conf = MACVLAN.network();
        chain(sb, &conf).call(sb, "DEL", &conf, &at.clone().nowhere(), None).run().silent();
        assert_eq!(to_containers(), *left);
        assert!(ping(&sb.node(), &all[2].1.ip(false)));
    }
    chain(sb, &with_shim()).del(sb, &all[2].1);
    assert_eq!(shim_name(sb), None);
    chain(sb, &with_shim()).del(sb, &all[2].1);
    Snapshot::of(&[&sb.node()]).same_but(&before, &["/var/lib/cni", "\"up0\""]);
}

fn shim_check(sb: &Sandbox) {
    let _outside = MACVLAN.outside(sb);
    let (_ns, at) = attached(sb, &with_shim(), "c1");
    let (node, name) = (sb.node(), shim_name(sb).unwrap());
    let spoilt: [(&[&str], &[&str]); 4] = [
        (&["ip", "route", "del", &at.ip(false), "dev", &name], &["route", "192.0.2.100"]),
        (&["ip", "addr", "del", "2001:db8:99::9/128", "dev", &name], &["2001:db8:99::9", &name]),
        (&["ip", "link", "set", &name, "down"], &["hostShim", "up", "down"]),
        (&["ip", "link", "del", &name], &["hostShim", &name]),
    ];
    for (words, named) in spoilt {
        node.sh(words);
        chain(sb, &with_shim()).check(sb, &at).error().names(named);
    }
    chain(sb, &with_shim()).del(sb, &at);
}

fn shim_gc(sb: &Sandbox) {
    sb.needs("macvlan", "1.1.0");
    let _outside = MACVLAN.outside(sb);
    let all = ["c1", "c2"].map(|id| attached(sb, &with_shim(), id));
    all.iter().for_each(|(ns, _)| ns.delete());
    chain(sb, &MACVLAN.network()).gc(sb, &[("c2", "eth0")]).silent();
    let name = shim_name(sb).unwrap();
    let left: Vec<_> = routes(&sb.node(), "-4").into_iter().filter(|route| route["dev"] == name.as_str()).collect();
    assert!(left.len() == 1 && left[0]["dst"] == all[1].1.ip(false), "{left:?}");
    chain(sb, &MACVLAN.network()).gc(sb, &[]).silent();
    assert_eq!(shim_name(sb), None);
}

/// The wire's other hosts ask for the node's own address: its own interface answers, and nothing else.
fn shim_is_quiet(sb: &Sandbox) {
    let outside = MACVLAN.outside(sb);
    let (_ns, _at) = attached(sb, &with_shim(), "c1");
    let name = shim_name(sb).unwrap();
    assert_eq!(sysctl(&sb.node(), &format!("ipv4/conf/{name}/arp_ignore")).as_deref(), Some("1"));
    assert_eq!(sysctl(&sb.node(), &format!("ipv6/conf/{name}/accept_ra")).as_deref(), Some("0"));
    for address in ["192.0.2.9", "192.0.2.1"] {
        outside.ns.sh(&["ip", "neigh", "flush", "dev", "eth0"]);
        assert!(ping(&outside.ns, address), "{address}");
    }
    let known = outside.ns.sh(&["ip", "neigh", "show", "192.0.2.1"]);
    let own = link(&sb.node(), "up0").unwrap()["address"].as_str().unwrap().to_owned();
    assert!(known.contains(&own), "the node is at {known}, and not at {own}");
    assert!(has_flag(&link(&sb.node(), &name).unwrap(), "UP"));
}

fn shim_rollback(sb: &Sandbox) {
    let _outside = MACVLAN.outside(sb);
    let mut conf = with_shim();
    conf["ipam"]["routes"] = json!([{"dst": "10.0.0.0/8", "gw": "203.0.113.1"}]);
    tried(sb, &conf, &sb.container("c1"), None).error();
    assert_eq!(shim_name(sb), None);
    // The shim can't have its address.
    set_sysctl(&sb.node(), "ipv6/conf/default/disable_ipv6", "1");
    let ns = sb.container("c2");
    tried(sb, &with_shim(), &ns, None).error().names(&["2001:db8:99::9", "IPv6", "disable_ipv6"]);
    assert_eq!((shim_name(sb), link_names(&ns)), (None, vec!["lo".to_owned()]));
}

fn shim_taken(sb: &Sandbox) {
    let _outside = MACVLAN.outside(sb);
    let (_ns, at) = attached(sb, &with_shim(), "c1");
    let name = shim_name(sb).unwrap();
    chain(sb, &with_shim()).del(sb, &at);
    sb.node().sh(&["ip", "link", "add", &name, "type", "veth", "peer", "name", "other"]);
    tried(sb, &with_shim(), &sb.container("c2"), None).error().names(&["hostShim", &name, "veth", "up0"]);
    assert!(link(&sb.node(), &name).is_some());
}
