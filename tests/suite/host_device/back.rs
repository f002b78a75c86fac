//! host-device: DEL and GC put the device back as it was, whatever became of the container.

use cni_tests::kernel::{addresses, has_flag, link, link_names};
use cni_tests::{Attachment, Chain, Netns, Sandbox, Snapshot};
use serde_json::{Value, json};

use super::{attached, call, chain, device, go, is_back, layer2, network, reserved};
use crate::case::{Basis, Case, common, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> =
        ENDS.map(|(name, basis, end)| common(name, move |sb| as_before(sb, end)).based_on(basis)).into();
    cases.extend([
        improved("del_after_a_virtual_device_died_with_the_netns", died),
        improved("del_after_the_name_was_taken", name_taken),
        improved("del_after_a_reboot_or_without_the_file", without_file),
        improved("del_leaves_another_networks_device_alone", another_network),
        improved("del_leaves_an_interface_with_another_alias_alone", another_alias),
        improved("gc_of_a_subset", gc),
        improved("a_device_that_came_back_by_itself_can_be_taken_again", taken_again),
        improved("a_changed_mtu_and_mac_are_put_back", changed),
        improved("go_adds_and_this_deletes", |sb| handover(sb, &go(sb), sb)),
        improved("this_adds_and_go_deletes", |sb| handover(sb, sb, &go(sb))),
    ]);
    cases
}

type End = fn(&Sandbox, &Value, &Netns, &Attachment);

const ENDS: [(&str, Basis, End); 7] = [
    ("del", Basis::Improved, |sb, conf, _, at| call(sb, "DEL", conf, at).silent()),
    ("del_twice", Basis::Improved, |sb, conf, _, at| (0..2).for_each(|_| call(sb, "DEL", conf, at).silent())),
    ("del_with_empty_netns", Basis::Improved, |sb, conf, _, at| call(sb, "DEL", conf, &at.clone().nowhere()).silent()),
    ("del_without_result", Basis::Improved, |sb, conf, _, at| {
        call(sb, "DEL", conf, &Attachment { result: None, ..at.clone() }).silent();
    }),
    ("del_without_any_key", Basis::Improved, |sb, conf, _, at| {
        let ipam = conf["ipam"].clone();
        call(sb, "DEL", &json!({"type": "host-device", "ipam": ipam}), at).silent();
    }),
    ("del_after_the_kernel_brought_it_back", Basis::Improved, |sb, conf, ns, at| {
        came_back(ns, "eth0");
        call(sb, "DEL", conf, at).silent();
    }),
    ("del_after_the_kernel_brought_it_back_under_another_name", Basis::Improved, |sb, conf, ns, at| {
        came_back(ns, "dev7");
        call(sb, "DEL", conf, at).silent();
    }),
];

/// The namespace ends and its hardware goes to the initial namespace, as `default_device_exit_net` in net/core/dev.c does it:
/// that of these tests is another one than the node's, so it is done here.
fn came_back(ns: &Netns, name: &str) {
    ns.sh(&["ip", "link", "set", "eth0", "down"]);
    ns.sh(&["ip", "link", "set", "eth0", "name", name]);
    cni_tests::netns::sh(&["ip", "netns", "attach", "node", &thread_id()]);
    ns.sh(&["ip", "link", "set", name, "netns", "node"]);
    cni_tests::netns::sh(&["ip", "netns", "del", "node"]);
    ns.delete();
}

fn thread_id() -> String {
    std::fs::read_link("/proc/thread-self").unwrap().file_name().unwrap().to_string_lossy().into_owned()
}

/// Name, alias, up, addresses: the node is as it was before.
fn as_before(sb: &Sandbox, end: End) {
    device(sb);
    let node = sb.node();
    node.sh(&["ip", "link", "set", "host0", "mtu", "1400", "alias", "for people"]);
    node.sh(&["ip", "link", "set", "host0", "up"]);
    node.sh(&["ip", "addr", "add", "192.0.2.7/24", "dev", "host0"]);
    node.sh(&["ip", "addr", "add", "2001:db8::7/64", "dev", "host0", "nodad"]);
    let before = link(&node, "host0").unwrap();
    let (ns, at) = attached(sb, &network(), "c1");
    end(sb, &network(), &ns, &at);
    let after = link(&node, "host0").unwrap();
    for key in ["ifname", "mtu", "address", "ifalias", "altnames"] {
        assert_eq!(after[key], before[key], "{key}");
    }
    assert!(has_flag(&after, "UP"), "{after}");
    assert_eq!(addresses(&node, "host0"), ["192.0.2.7/24", "2001:db8::7/64"]);
    assert!(reserved().is_empty(), "{:?}", reserved());
    assert!(!std::path::Path::new("/run/cni/host-device").read_dir().unwrap().any(|_| true));
}

/// A veth end is deleted with the namespace. Addresses are released all the same.
fn died(sb: &Sandbox) {
    device(sb);
    let (ns, at) = attached(sb, &network(), "c1");
    ns.delete();
    for _ in 0..2 {
        call(sb, "DEL", &network(), &at).silent();
    }
    assert!(reserved().is_empty(), "{:?}", reserved());
    assert!(!std::path::Path::new("/run/cni/host-device").read_dir().unwrap().any(|_| true));
}

fn name_taken(sb: &Sandbox) {
    device(sb);
    let (ns, at) = attached(sb, &network(), "c1");
    let node = sb.node();
    node.sh(&["ip", "link", "add", "host0", "type", "bridge"]);
    call(sb, "DEL", &network(), &at).error().names(&["host0", "rename"]);
    assert!(!reserved().is_empty(), "the device is still in the container");
    call(sb, "CHECK", &network(), &at).silent();
    node.sh(&["ip", "link", "del", "host0"]);
    call(sb, "DEL", &network(), &at).silent();
    is_back(sb, "host0");
    assert_eq!(link_names(&ns), ["lo"]);
}

fn without_file(sb: &Sandbox) {
    device(sb);
    let (_ns, at) = attached(sb, &network(), "c1");
    std::fs::remove_dir_all("/run/cni/host-device").unwrap();
    call(sb, "DEL", &network(), &at).silent();
    is_back(sb, "host0");
}

/// The name was taken by another network, so ADD failed, and the runtime calls DEL for it.
fn another_network(sb: &Sandbox) {
    device(sb);
    sb.node().sh(&["ip", "link", "add", "other0", "type", "bridge"]);
    let (ns, at) = attached(sb, &network(), "c1");
    let conf = json!({"type": "host-device", "device": "other0"});
    let other = Chain::new("another", chain(sb, &conf).version(), &[conf]);
    let mut to = Attachment::new("c1", &ns);
    other.try_add(sb, &mut to).expect_err("the name is taken");
    other.del(sb, &to);
    call(sb, "CHECK", &network(), &at).silent();
    assert!(link(&sb.node(), "other0").is_some());
}

fn another_alias(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    ns.sh(&["ip", "link", "set", "eth0", "alias", "uplink"]);
    let at = Attachment::new("c1", &ns);
    call(sb, "DEL", &layer2(), &at).silent();
    assert_eq!(link_names(&ns), ["lo", "eth0"]);
}

fn gc(sb: &Sandbox) {
    sb.needs("host-device", "1.1.0");
    device(sb);
    sb.node().sh(&["ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1"]);
    let before = Snapshot::of(&[&sb.node()]);
    let (_stays, stays) = attached(sb, &network(), "stays");
    let mut conf = network();
    conf["device"] = "other0".into();
    let (goes, _) = attached(sb, &conf, "goes");
    chain(sb, &network()).gc(sb, &[("stays", "eth0")]).silent();
    call(sb, "CHECK", &network(), &stays).silent();
    assert!(link(&sb.node(), "other0").is_some());
    assert_eq!(link_names(&goes), ["lo"]);
    // Those of another network are not concerned.
    Chain::new("another", "1.1.0", &[network()]).gc(sb, &[]).silent();
    call(sb, "CHECK", &network(), &stays).silent();
    chain(sb, &network()).gc(sb, &[]).silent();
    Snapshot::of(&[&sb.node()]).same_but(&before, &["/run/cni", "/var/lib/cni"]);
    is_back(sb, "host0");
    assert!(reserved().is_empty(), "{:?}", reserved());
}

/// The next pod gets the device before the last one's DEL came.
fn taken_again(sb: &Sandbox) {
    device(sb);
    let mac = link(&sb.node(), "host0").unwrap()["address"].clone();
    let conf = json!({"type": "host-device", "hwaddr": mac});
    let (ns, first) = attached(sb, &conf, "c1");
    came_back(&ns, "dev7");
    let (second_ns, second) = attached(sb, &conf, "c2");
    assert_eq!(link(&second_ns, "eth0").unwrap()["ifalias"], "host0");
    call(sb, "DEL", &conf, &first).silent();
    call(sb, "CHECK", &conf, &second).silent();
    call(sb, "DEL", &conf, &second).silent();
    is_back(sb, "host0");
}

fn changed(sb: &Sandbox) {
    device(sb);
    let before = link(&sb.node(), "host0").unwrap();
    let (ns, at) = attached(sb, &layer2(), "c1");
    ns.sh(&["ip", "link", "set", "eth0", "mtu", "1300", "address", "0a:00:00:00:00:77"]);
    call(sb, "DEL", &layer2(), &at).silent();
    let after = link(&sb.node(), "host0").unwrap();
    assert_eq!((&after["mtu"], &after["address"]), (&before["mtu"], &before["address"]));
}

/// A node is upgraded, or rolled back, under a running container.
fn handover(sb: &Sandbox, adds: &Sandbox, deletes: &Sandbox) {
    device(sb);
    let conf = layer2();
    let list = Chain::new("devnet", "1.0.0", std::slice::from_ref(&conf));
    let ns = sb.container("c1");
    let mut at = Attachment::new("c1", &ns);
    list.add(adds, &mut at);
    list.check(deletes, &at).silent();
    list.del(deletes, &at);
    assert!(link(&sb.node(), "host0").is_some());
    assert_eq!(link_names(&ns), ["lo"]);
    // The Go plugin leaves this one's mark and file, which the next ADD and DEL remove.
    let (_ns, at) = attached(sb, &conf, "c2");
    call(sb, "DEL", &conf, &at).silent();
    Chain::new("devnet", "1.0.0", std::slice::from_ref(&conf)).del(sb, &Attachment::new("c1", &ns));
    is_back(sb, "host0");
}
