//! ptp: DEL, GC and a failed ADD leave nothing of their own, and everything of others.

use cni_tests::conf::Backend;
use cni_tests::kernel::link_names;
use cni_tests::packets::ping;
use cni_tests::{Attachment, Chain, Netns, Sandbox, Snapshot, rules};
use serde_json::{Value, json};

use super::{V4, V6, attached, call, chain, host_link, masquerading, network};
use crate::case::{Basis, Case, common, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        common("del_of_one_leaves_the_other", one_of_two),
        improved("a_repeated_add_leaves_the_first_alone", repeat),
        improved("del_leaves_another_networks_interface_alone", another_network),
    ];
    for backend in Backend::ALL {
        let name = |what: &str| format!("{}::{what}", backend.name());
        cases.push(improved(name("gc_of_a_subset"), move |sb| gc(sb, backend)));
        for (what, basis, end) in ENDS {
            let case = common(name(&format!("leaves_nothing_{what}")), move |sb| nothing_left(sb, backend, end));
            cases.push(case.based_on(basis));
        }
    }
    for (label, conf, named) in rollbacks() {
        cases.push(improved(format!("rollback_{label}"), move |sb| rollback(sb, &conf, named)));
    }
    cases
}

type End = fn(&Sandbox, &Value, &Netns, &Attachment);

const ENDS: [(&str, Basis, End); 6] = [
    ("del", Basis::Common, |sb, conf, _, at| call(sb, "DEL", conf, at).silent()),
    ("del_twice", Basis::Common, |sb, conf, _, at| (0..2).for_each(|_| call(sb, "DEL", conf, at).silent())),
    ("del_with_empty_netns", Basis::Improved, |sb, conf, _, at| {
        call(sb, "DEL", conf, &at.clone().nowhere()).silent();
    }),
    ("del_after_the_netns_vanished", Basis::Improved, |sb, conf, ns, at| {
        ns.delete();
        call(sb, "DEL", conf, at).silent();
    }),
    ("del_without_result", Basis::Improved, |sb, conf, _, at| {
        let at = Attachment { result: None, ..at.clone() };
        call(sb, "DEL", conf, &at.nowhere()).silent();
    }),
    ("del_after_addresses_were_removed", Basis::Improved, |sb, conf, ns, at| {
        ns.sh(&["ip", "addr", "flush", "dev", "eth0"]);
        call(sb, "DEL", conf, at).silent();
    }),
];

fn nothing_left(sb: &Sandbox, backend: Backend, end: End) {
    let conf = masquerading(backend);
    let (first_ns, first) = attached(sb, &conf, "first");
    call(sb, "DEL", &conf, &first).silent();
    let (_stays, stays) = attached(sb, &conf, "stays");
    let before = Snapshot::of(&[&sb.node(), &first_ns]);
    let (ns, at) = attached(sb, &conf, "goes");
    end(sb, &conf, &ns, &at);
    Snapshot::of(&[&sb.node(), &first_ns]).same_but(&before, &["last_reserved_ip", ".host-local"]);
    call(sb, "CHECK", &conf, &stays).silent();
}

fn one_of_two(sb: &Sandbox) {
    let conf = masquerading(Backend::Iptables);
    let (_one, first) = attached(sb, &conf, "c1");
    let (two, second) = attached(sb, &conf, "c2");
    call(sb, "DEL", &conf, &first).silent();
    call(sb, "CHECK", &conf, &second).silent();
    assert!(ping(&two, "10.21.0.1") && ping(&sb.node(), &second.ip(true)));
    assert!(rules::naming(&sb.node(), &first.ip(false)).is_empty());
}

fn repeat(sb: &Sandbox) {
    let conf = masquerading(Backend::Iptables);
    let (ns, at) = attached(sb, &conf, "c1");
    let before = Snapshot::of(&[&sb.node(), &ns]);
    let mut again = Attachment::new("c1", &ns);
    let error =
        chain(sb, std::slice::from_ref(&conf)).try_add(sb, &mut again).expect_err("it is there already").error();
    error.names(&["eth0", "already"]);
    Snapshot::of(&[&sb.node(), &ns]).same_but(&before, &["last_reserved_ip", ".host-local"]);
    // The same attachment, by a runtime that lost the namespace.
    let elsewhere = sb.container("elsewhere");
    let mut again = Attachment::new("c1", &elsewhere);
    chain(sb, std::slice::from_ref(&conf)).try_add(sb, &mut again).expect_err("it is there already").error();
    call(sb, "CHECK", &conf, &at).silent();
}

/// The name was taken by another network, so ADD failed, and the runtime calls DEL for it.
fn another_network(sb: &Sandbox) {
    let (ns, at) = attached(sb, &network(), "c1");
    let version = sb.newest(&["ptp", "host-local"]);
    let mut conf = network();
    conf["ipam"] = json!({"type": "host-local", "subnet": "10.22.0.0/24"});
    let other = Chain::new("another", version, &[conf]);
    let mut to = Attachment::new("c1", &ns);
    other.try_add(sb, &mut to).expect_err("the name is taken");
    other.del(sb, &to);
    call(sb, "CHECK", &network(), &at).silent();
}

fn gc(sb: &Sandbox, backend: Backend) {
    sb.needs("ptp", "1.1.0");
    let conf = masquerading(backend);
    let (_stays, stays) = attached(sb, &conf, "stays");
    let (_goes, goes) = attached(sb, &conf, "goes");
    let (_other, other) = {
        let ns = sb.container("other");
        let mut at = Attachment::new("other", &ns);
        let mut conf = conf.clone();
        conf["ipam"] = json!({"type": "host-local", "subnet": "10.22.0.0/24"});
        Chain::new("another", "1.1.0", &[conf]).add(sb, &mut at);
        (ns, at)
    };
    chain(sb, std::slice::from_ref(&conf)).gc(sb, &[("stays", "eth0")]).silent();
    let names = link_names(&sb.node());
    assert!(names.contains(&host_link(&stays)) && names.contains(&host_link(&other)), "{names:?}");
    assert!(!names.contains(&host_link(&goes)), "{names:?}");
    let left = Snapshot::of(&[&sb.node()]);
    for v6 in [false, true] {
        let left: Vec<_> = left.naming(&goes.ip(v6)).into_iter().filter(|l| !l.contains("last_reserved")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    call(sb, "CHECK", &conf, &stays).silent();
}

fn rollbacks() -> Vec<(&'static str, Value, &'static [&'static str])> {
    let with = |ipam: Value| {
        let mut conf = masquerading(Backend::Iptables);
        conf["ipam"] = ipam;
        conf
    };
    let mut backend = network();
    backend["ipMasqBackend"] = "pf".into();
    let mut mtu = network();
    mtu["mtu"] = 70000.into();
    let address = |address: &str, gateway: &str| json!([{"address": address, "gateway": gateway}]);
    let route = json!({
        "type": "host-local", "subnet": V4, "routes": [{"dst": "10.9.0.0/16", "gw": "172.31.0.1"}]
    });
    vec![
        (
            "address_without_gateway",
            with(json!({"type": "static", "addresses": [{"address": "10.5.0.5/24"}]})),
            &["10.5.0.5/24", "gateway"],
        ),
        (
            "gateway_of_another_family",
            with(json!({"type": "static", "addresses": address("10.5.0.5/24", "fd00::1")})),
            &["fd00::1"],
        ),
        ("no_address", with(json!({"type": "static"})), &["missing IP config"]),
        ("route_that_the_kernel_refuses", with(route), &["10.9.0.0/16", "172.31.0.1"]),
        ("no_such_ipam", with(json!({"type": "nope"})), &["nope"]),
        ("ipam_type_with_slash", with(json!({"type": "../x"})), &["../x"]),
        (
            "exhausted_range",
            with(json!({"type": "host-local", "ranges": [
                [{"subnet": V4}], [{"subnet": V6, "rangeStart": "fd00:21::1", "rangeEnd": "fd00:21::1"}]
            ]})),
            &["fd00:21::1"],
        ),
        ("unknown_backend", backend, &["ipMasqBackend", "pf"]),
        ("mtu_too_large", mtu, &["mtu", "70000"]),
    ]
}

fn rollback(sb: &Sandbox, conf: &Value, named: &[&str]) {
    // What all attachments share is there already.
    let warm = masquerading(Backend::Iptables);
    let (_first, first) = attached(sb, &warm, "first");
    call(sb, "DEL", &warm, &first).silent();
    let ns = sb.container("c1");
    let before = Snapshot::of(&[&sb.node(), &ns]);
    let mut to = Attachment::new("c1", &ns);
    let chain = chain(sb, std::slice::from_ref(conf));
    chain.try_add(sb, &mut to).expect_err("ADD has to fail").error().names(named);
    Snapshot::of(&[&sb.node(), &ns]).same_but(&before, &["last_reserved_ip", ".host-local"]);
    // Without the IPAM plugin DEL can't say that nothing is reserved any more.
    if sb.has(conf["ipam"]["type"].as_str().unwrap()) {
        chain.del(sb, &to);
    }
}
