//! firewall: what it makes, replaces, leaves and collects, without a packet.

use cni_tests::conf::{self, Backend};
use cni_tests::{Sandbox, Snapshot, netns, rules};
use serde_json::{Value, json};

use super::{about_bridge, add, call};
use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![improved("nftables::rules_survive_a_reload", reload)];
    cases
        .extend(Backend::ALL.map(|backend| {
            improved(format!("{}::odd_bridge_names", backend.name()), move |sb| odd_names(sb, backend))
        }));
    for backend in Backend::ALL {
        let name = |what: &str| format!("{}::{what}", backend.name());
        let rows: [(&str, Scenario); 11] = [
            ("del_leaves_nothing", del),
            ("del_without_result_leaves_nothing", del_without_result),
            ("del_under_another_policy_leaves_nothing", del_other_policy),
            ("add_twice_is_add_once", twice),
            ("policy_goes_with_the_last_owner", last_owner),
            ("policy_is_replaced", replaced),
            ("address_that_changed_hands", changed_hands),
            ("two_interfaces", two_interfaces),
            ("add_with_another_address", moved),
            ("add_behind_another_bridge", rewired),
            ("gc_keeps_the_valid", gc),
        ];
        cases.extend(rows.map(|(what, story)| improved(name(what), move |sb| story(sb, backend))));
    }
    cases
}

type Scenario = fn(&Sandbox, Backend);

/// A node on which tables and base chains exist: one attachment has come and gone and another stays.
fn used(sb: &Sandbox, backend: Backend) -> Snapshot {
    let conf = add(sb, backend, "isolated", "first", 2);
    call(sb, "DEL", "first", &conf).silent();
    let mut elsewhere = conf::firewall_alone(sb, backend, "isolated", 3);
    elsewhere["prevResult"]["interfaces"][0]["name"] = "br1".into();
    call(sb, "ADD", "stays", &elsewhere).result();
    Snapshot::of(&[&sb.node()])
}

/// Names that the kernel allows, and that mean something where rules are written or printed.
fn odd_names(sb: &Sandbox, backend: Backend) {
    let before = used(sb, backend);
    for name in ["br\"0", "br'0", "br\\0", "-i", "br#0", "br$(0)"] {
        let mut conf = conf::firewall_alone(sb, backend, "isolated", 4);
        conf["prevResult"]["interfaces"][0]["name"] = name.into();
        call(sb, "ADD", "goes", &conf).result();
        let once = Snapshot::of(&[&sb.node()]);
        call(sb, "ADD", "goes", &conf).result();
        Snapshot::of(&[&sb.node()]).same_as(&once);
        call(sb, "CHECK", "goes", &conf).silent();
        call(sb, "DEL", "goes", &conf).silent();
        Snapshot::of(&[&sb.node()]).same_as(&before);
    }
}

fn left_by(sb: &Sandbox, backend: Backend, end: impl Fn(&Value)) {
    let before = used(sb, backend);
    let conf = add(sb, backend, "isolated", "goes", 4);
    assert_ne!(Snapshot::of(&[&sb.node()]), before);
    end(&conf);
    Snapshot::of(&[&sb.node()]).same_as(&before);
}

fn del(sb: &Sandbox, backend: Backend) {
    left_by(sb, backend, |conf| (0..2).for_each(|_| call(sb, "DEL", "goes", conf).silent()));
}

fn del_without_result(sb: &Sandbox, backend: Backend) {
    left_by(sb, backend, |conf| {
        let mut conf = conf.clone();
        conf.as_object_mut().map(|c| c.remove("prevResult"));
        call(sb, "DEL", "goes", &conf).silent();
    });
}

fn del_other_policy(sb: &Sandbox, backend: Backend) {
    for policy in ["open", "same-bridge", "nonsense"] {
        left_by(sb, backend, |conf| {
            let mut conf = conf.clone();
            conf["ingressPolicy"] = policy.into();
            call(sb, "DEL", "goes", &conf).silent();
        });
        call(sb, "DEL", "stays", &conf::firewall_alone(sb, backend, "open", 3)).silent();
    }
}

fn twice(sb: &Sandbox, backend: Backend) {
    add(sb, backend, "isolated", "c1", 2);
    let once = Snapshot::of(&[&sb.node()]);
    add(sb, backend, "isolated", "c1", 2);
    Snapshot::of(&[&sb.node()]).same_as(&once);
}

fn last_owner(sb: &Sandbox, backend: Backend) {
    let one = add(sb, backend, "isolated", "c1", 2);
    let shared = about_bridge(sb).len();
    let two = add(sb, backend, "isolated", "c2", 3);
    call(sb, "DEL", "c1", &one).silent();
    assert_eq!(about_bridge(sb).len(), shared, "as long as a container is behind it: {:?}", about_bridge(sb));
    call(sb, "CHECK", "c2", &two).silent();
    call(sb, "DEL", "c2", &two).silent();
    assert!(about_bridge(sb).is_empty(), "{:?}", about_bridge(sb));
}

fn replaced(sb: &Sandbox, backend: Backend) {
    let old = add(sb, backend, "isolated", "c1", 2);
    let new = add(sb, backend, "same-bridge", "c2", 3);
    call(sb, "CHECK", "c2", &new).silent();
    call(sb, "CHECK", "c1", &old).error().names(&["isolated", "br0"]);
    let drops: Vec<_> =
        about_bridge(sb).into_iter().filter(|l| l.contains("isolated)") && l.contains("-i br0")).collect();
    assert!(drops.is_empty(), "of the old policy: {drops:?}");
    add(sb, backend, "open", "c1", 2);
    call(sb, "DEL", "c2", &new).silent();
    assert!(about_bridge(sb).is_empty(), "c1 has no policy any more: {:?}", about_bridge(sb));
}

/// The runtime forgot c1, IPAM gave its address to c2, and then the runtime remembers.
fn changed_hands(sb: &Sandbox, backend: Backend) {
    let late = add(sb, backend, "isolated", "c1", 2);
    let conf = add(sb, backend, "isolated", "c2", 2);
    call(sb, "CHECK", "c2", &conf).silent();
    call(sb, "CHECK", "c1", &late).error().names(&["10.9.0.2", "c2"]);
    call(sb, "DEL", "c1", &late).silent();
    call(sb, "CHECK", "c2", &conf).silent();
    call(sb, "DEL", "c2", &conf).silent();
    assert!(rules::naming(&sb.node(), "10.9.0.2").is_empty());
}

/// The runtime adds it again without having deleted it: the latest ADD says what it has.
fn moved(sb: &Sandbox, backend: Backend) {
    let before = used(sb, backend);
    add(sb, backend, "isolated", "c1", 4);
    let conf = add(sb, backend, "isolated", "c1", 5);
    for address in ["10.9.0.4", "fd00:9::4"] {
        assert!(rules::naming(&sb.node(), address).is_empty(), "{address}");
    }
    call(sb, "CHECK", "c1", &conf).silent();
    call(sb, "DEL", "c1", &conf).silent();
    Snapshot::of(&[&sb.node()]).same_as(&before);
}

fn rewired(sb: &Sandbox, backend: Backend) {
    let before = used(sb, backend);
    let mut conf = add(sb, backend, "isolated", "c1", 4);
    conf["prevResult"]["interfaces"][0]["name"] = "br7".into();
    call(sb, "ADD", "c1", &conf).result();
    assert!(about_bridge(sb).is_empty(), "no container is behind br0: {:?}", about_bridge(sb));
    call(sb, "CHECK", "c1", &conf).silent();
    conf["ingressPolicy"] = "open".into();
    call(sb, "ADD", "c1", &conf).result();
    assert!(rules::naming(&sb.node(), "br7").is_empty(), "nor behind br7");
    call(sb, "DEL", "c1", &conf).silent();
    Snapshot::of(&[&sb.node()]).same_as(&before);
}

fn two_interfaces(sb: &Sandbox, backend: Backend) {
    let (one, two) = (conf::firewall_alone(sb, backend, "open", 2), conf::firewall_alone(sb, backend, "open", 3));
    let on = |verb: &str, ifname: &str, conf: &Value| {
        sb.plugin("firewall", verb).names("c1", ifname).env("CNI_NETNS", "/run/netns/none").conf(conf).run()
    };
    on("ADD", "eth0", &one).result();
    on("ADD", "eth1", &two).result();
    on("DEL", "eth0", &one).silent();
    on("CHECK", "eth1", &two).silent();
    assert!(rules::naming(&sb.node(), "10.9.0.2").is_empty());
}

fn gc(sb: &Sandbox, backend: Backend) {
    sb.needs("firewall", "1.1.0");
    let valid = add(sb, backend, "isolated", "valid", 2);
    let before = Snapshot::of(&[&sb.node()]);
    add(sb, backend, "isolated", "stale", 3);
    let mut conf = valid.clone();
    conf.as_object_mut().map(|c| c.remove("prevResult"));
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "valid", "ifname": "eth0"}]);
    let collect = |conf: &Value| sb.plugin("firewall", "GC").conf(conf).run().silent();
    collect(&conf);
    Snapshot::of(&[&sb.node()]).same_as(&before);
    let mut other = conf.clone();
    (other["name"], other["cni.dev/valid-attachments"]) = ("another".into(), json!([]));
    collect(&other);
    Snapshot::of(&[&sb.node()]).same_as(&before);
    conf["cni.dev/valid-attachments"] = json!([]);
    collect(&conf);
    for thing in ["10.9.0.", "fd00:9:", "br0", "valid"] {
        assert!(rules::naming(&sb.node(), thing).is_empty(), "{thing}");
    }
}

/// What `nft list ruleset` prints can be loaded again, as nftables.service does.
fn reload(sb: &Sandbox) {
    let conf = add(sb, Backend::Nftables, "isolated", "c1", 2);
    let listed = netns::sh(&["nft", "list", "ruleset"]);
    std::fs::create_dir_all("/run/cni-test").unwrap();
    std::fs::write("/run/cni-test/saved", format!("flush ruleset\n{listed}")).unwrap();
    netns::sh(&["nft", "-f", "/run/cni-test/saved"]);
    call(sb, "CHECK", "c1", &conf).silent();
    call(sb, "DEL", "c1", &conf).silent();
    assert!(about_bridge(sb).is_empty());
}
