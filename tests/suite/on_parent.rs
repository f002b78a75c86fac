//! Plugins whose link is on another one, `master`: what they have in common. Skipped where the kernel lacks the kind of link;
//! `hack/test-vm.sh` has a kernel with all of them.

use std::process::{Child, Command, Stdio};

use cni_tests::capture::{heard, listen};
use cni_tests::kernel::{addresses, default_routes, has_flag, link, link_names};
use cni_tests::packets::{Outside, ping};
use cni_tests::sandbox::FAKES;
use cni_tests::{Attachment, Chain, Netns, Outcome, Sandbox, Snapshot, verdict};
use serde_json::{Value, json};

use crate::case::{Basis, Case, common};
use cni_tests::plugins::{VERSIONS, tidy};

/// A plugin of this sort.
#[derive(Debug)]
pub(crate) struct Kind {
    /// The plugin, and the kind of its links.
    pub(crate) plugin: &'static str,
    /// What the addresses of its network begin with.
    v4: &'static str,
    v6: &'static str,
    /// Its VLAN, if the network is one.
    vlan: Option<u16>,
}

pub(crate) const MACVLAN: Kind = Kind { plugin: "macvlan", v4: "192.0.2", v6: "2001:db8:99:", vlan: None };

pub(crate) const IPVLAN: Kind = Kind { plugin: "ipvlan", ..MACVLAN };
pub(crate) const VLAN: Kind = Kind { plugin: "vlan", v4: "198.51.100", v6: "2001:db8:98:", vlan: Some(100) };
const KINDS: [&Kind; 3] = [&MACVLAN, &IPVLAN, &VLAN];

type Story = fn(&Sandbox, &'static Kind);

const STORIES: &[(&str, Basis, Story)] = &[
    ("a_life_with_packets", Basis::Common, life),
    ("mtu_is_the_masters_unless_it_is_smaller", Basis::Common, mtu),
    ("without_ipam_is_layer_2_or_refused", Basis::Improved, layer_2),
    ("check_names_what_is_wrong", Basis::Improved, check),
    ("the_owner_is_on_the_link", Basis::Improved, owner),
    ("a_second_add_is_refused", Basis::Improved, repeat),
    ("a_failed_add_leaves_nothing", Basis::Improved, rollback),
    ("a_mtu_above_the_masters_is_refused", Basis::Improved, mtu_above),
    ("a_master_that_is_absent_is_named", Basis::Improved, absent),
    ("a_master_that_is_no_ethernet_is_named", Basis::Improved, no_ethernet),
    ("master_is_the_chains_interface", Basis::Improved, of_the_chain),
    ("master_in_the_container", Basis::Newer, in_container),
    ("the_node_has_a_link_of_the_interfaces_name", Basis::Common, same_name),
    ("del_needs_neither_master_nor_configuration", Basis::Improved, bare_del),
    ("del_without_a_namespace_finds_it_by_the_result", Basis::Improved, lost_namespace),
    ("del_after_the_namespace", Basis::Common, dead_namespace),
    ("del_finds_it_by_its_owner_alone", Basis::Improved, by_owner),
    ("gc_keeps_the_valid", Basis::Improved, gc),
    ("gc_finds_it_in_a_namespace_without_processes", Basis::Improved, gc_without_processes),
    ("gc_leaves_what_another_node_has", Basis::Improved, gc_beside_another_node),
    ("status_knows_master_and_ipam", Basis::Improved, status),
    ("announces_its_addresses", Basis::Improved, announced),
    ("create_master_makes_a_vlan_and_deletes_it_with_the_last", Basis::Improved, created_master),
    ("create_master_leaves_what_it_did_not_make", Basis::Improved, found_master),
    ("create_master_bad_names_are_named", Basis::Improved, bad_created_master),
    ("dhcp_has_the_link_at_add_and_at_del", Basis::Improved, dhcp),
];

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in KINDS {
        cases.extend(STORIES.iter().map(|(name, basis, story)| {
            common(format!("{}::{name}", kind.plugin), move |sb| story(sb, kind)).based_on(*basis)
        }));
        cases.extend(
            VERSIONS.map(|version| {
                common(format!("{}::result_{version}", kind.plugin), move |sb| result(sb, kind, version))
            }),
        );
        if kind.vlan.is_none() {
            let name = format!("{}::master_is_the_default_routes_link", kind.plugin);
            cases.push(common(name, move |sb| default_route(sb, kind)));
        }
    }
    cases
}

impl Kind {
    /// The node with the master `up0`, behind which is the world outside, on this kind's network; skips the case if the kernel
    /// knows no such links.
    pub(crate) fn outside(&self, sb: &Sandbox) -> Outside {
        let outside = sb.outside();
        let words: &[&str] = match self.vlan {
            Some(_) => &["ip", "link", "add", "link", "up0", "name", "probe", "type", self.plugin, "id", "7"],
            None => &["ip", "link", "add", "link", "up0", "name", "probe", "type", self.plugin],
        };
        if !sb.node().holds(words) {
            verdict::skip(format!("this kernel has no {} links", self.plugin));
        }
        sb.node().sh(&["ip", "link", "del", "probe"]);
        if let Some(id) = self.vlan {
            let (ns, id) = (&outside.ns, id.to_string());
            ns.sh(&["ip", "link", "add", "link", "eth0", "name", "tagged", "type", "vlan", "id", &id]);
            ns.sh(&["ip", "addr", "add", &format!("{}.2/24", self.v4), "dev", "tagged"]);
            ns.sh(&["ip", "addr", "add", &format!("{}:2/64", self.v6), "dev", "tagged", "nodad"]);
            ns.sh(&["ip", "link", "set", "tagged", "up"]);
        }
        outside
    }

    /// The network that the world outside is on, dual-stack, with default routes to it.
    pub(crate) fn network(&self) -> Value {
        let (v4, v6) = (self.v4, self.v6);
        let mut conf = json!({"type": self.plugin, "master": "up0", "ipam": {
            "type": "host-local",
            "ranges": [
                [{"subnet": format!("{v4}.0/24"), "rangeStart": format!("{v4}.100"), "rangeEnd": format!("{v4}.110"),
                  "gateway": format!("{v4}.2")}],
                [{"subnet": format!("{v6}:/64"), "rangeStart": format!("{v6}:100"), "rangeEnd": format!("{v6}:110"),
                  "gateway": format!("{v6}:2")}]
            ],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
        }});
        if let Some(id) = self.vlan {
            conf["vlanId"] = id.into();
        }
        conf
    }

    /// The same for the `n`th container: a master has only one link for each VLAN.
    fn nth(&self, conf: &Value, n: u16) -> Value {
        let mut conf = conf.clone();
        if let Some(id) = self.vlan {
            conf["vlanId"] = (id + n).into();
        }
        conf
    }

    /// [`Self::network`] with other keys; null removes one.
    pub(crate) fn with(&self, keys: &Value) -> Value {
        let mut conf = self.network();
        for (key, value) in keys.as_object().unwrap() {
            match value {
                Value::Null => drop(conf.as_object_mut().unwrap().remove(key)),
                value => conf[key] = value.clone(),
            }
        }
        conf
    }
}

pub(crate) fn chain(sb: &Sandbox, conf: &Value) -> Chain {
    let plugin = conf["type"].as_str().unwrap();
    Chain::new("wire", sb.newest(&[plugin, "host-local"]), std::slice::from_ref(conf))
}

pub(crate) fn attached(sb: &Sandbox, conf: &Value, id: &str) -> (Netns, Attachment) {
    chain(sb, conf).attached(sb, id)
}

/// An ADD, whatever comes of it.
pub(crate) fn tried(sb: &Sandbox, conf: &Value, ns: &Netns, previous: Option<&Value>) -> Outcome {
    chain(sb, conf).call(sb, "ADD", conf, &Attachment::new(&ns.name, ns), previous).run()
}

fn eth0(ns: &Netns) -> Value {
    link(ns, "eth0").expect("the container has its interface")
}

fn life(sb: &Sandbox, kind: &'static Kind) {
    let outside = kind.outside(sb);
    let ids = if kind.vlan.is_some() { &["c1"][..] } else { &["c1", "c2"] };
    let spaces: Vec<Netns> = ids.iter().map(|id| sb.container(id)).collect();
    let node = sb.node();
    let state = || Snapshot::of(&[&node].into_iter().chain(&spaces).collect::<Vec<_>>());
    let before = state();
    let chain = chain(sb, &kind.network());
    let mut both = ids.iter().zip(&spaces).map(|(id, ns)| Attachment::new(id, ns)).collect::<Vec<_>>();
    for at in &mut both {
        chain.add(sb, at);
        chain.check(sb, at).silent();
    }
    let far = [format!("{}.2", kind.v4), format!("{}:2", kind.v6)];
    for (ns, at) in spaces.iter().zip(&both) {
        assert_eq!(eth0(ns)["linkinfo"]["info_kind"], kind.plugin);
        assert_eq!(default_routes(ns, "-4"), [format!("{} dev eth0", far[0])]);
        for (address, v6) in far.iter().zip([false, true]) {
            assert!(ping(ns, address), "{} can't reach {address}", ns.name);
            assert!(ping(&outside.ns, &at.ip(v6)), "{} can't be reached", at.ip(v6));
        }
    }
    for (other, v6) in both.iter().skip(1).flat_map(|other| [(other, false), (other, true)]) {
        assert!(ping(&spaces[0], &other.ip(v6)), "one container can't reach the other: {}", other.ip(v6));
    }
    for at in &both {
        chain.del(sb, at);
        chain.del(sb, at);
    }
    state().same_but(&before, &["/var/lib/cni", "lo/disable_ipv6"]);
}

fn result(sb: &Sandbox, kind: &'static Kind, version: &str) {
    sb.needs(kind.plugin, version);
    sb.needs("host-local", version);
    let _outside = kind.outside(sb);
    let conf = kind.with(&json!({"dns": {"nameservers": ["192.0.2.53"]}}));
    let ns = sb.container("c1");
    let mut at = Attachment::new("c1", &ns);
    let found = tidy(Chain::new("wire", version, std::slice::from_ref(&conf)).add(sb, &mut at));
    let (v4, v6) = (format!("{}.100/24", kind.v4), format!("{}:100/64", kind.v6));
    let (far4, far6) = (format!("{}.2", kind.v4), format!("{}:2", kind.v6));
    let old = json!({"cniVersion": version, "dns": {"nameservers": ["192.0.2.53"]},
        "ip4": {"ip": v4, "gateway": far4, "routes": [{"dst": "0.0.0.0/0"}]},
        "ip6": {"ip": v6, "gateway": far6, "routes": [{"dst": "::/0"}]}});
    if version < "0.3.0" {
        assert_eq!(found, old);
        return;
    }
    let mut interface = json!({"name": "eth0", "mac": eth0(&ns)["address"], "sandbox": ns.path()});
    if found["interfaces"][0]["mtu"] != Value::Null {
        interface["mtu"] = 1500.into();
    }
    let mut ips = [
        json!({"address": v4, "gateway": far4, "interface": 0}),
        json!({"address": v6, "gateway": far6, "interface": 0}),
    ];
    if version < "1.0.0" {
        ips[0]["version"] = "4".into();
        ips[1]["version"] = "6".into();
    }
    assert_eq!(
        found,
        json!({"cniVersion": version, "dns": {"nameservers": ["192.0.2.53"]}, "interfaces": [interface],
        "ips": ips, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]})
    );
}

fn mtu(sb: &Sandbox, kind: &'static Kind) {
    let _outside = kind.outside(sb);
    let (ns, at) = attached(sb, &kind.network(), "c1");
    assert_eq!(eth0(&ns)["mtu"], 1500);
    chain(sb, &kind.network()).check(sb, &at).silent();
    let conf = kind.nth(&kind.with(&json!({"mtu": 1400})), 1);
    let (ns, at) = attached(sb, &conf, "c2");
    assert_eq!(eth0(&ns)["mtu"], 1400);
    chain(sb, &conf).check(sb, &at).silent();
}

fn mtu_above(sb: &Sandbox, kind: &'static Kind) {
    let _outside = kind.outside(sb);
    for mtu in [1501, -1] {
        let conf = kind.with(&json!({"mtu": mtu}));
        let ns = sb.container(&format!("c{mtu}").replace('-', "m"));
        tried(sb, &conf, &ns, None).error().names(&["mtu", &mtu.to_string(), "up0", "1500"]);
        assert_eq!(link_names(&ns), ["lo"]);
    }
}

fn layer_2(sb: &Sandbox, kind: &'static Kind) {
    let _outside = kind.outside(sb);
    let conf = kind.with(&json!({"ipam": null}));
    let ns = sb.container("c1");
    if kind.plugin == "ipvlan" {
        tried(sb, &conf, &ns, None).error().names(&["ipam", "type"]);
        return;
    }
    let mut at = Attachment::new("c1", &ns);
    let chain = chain(sb, &conf);
    let result = chain.add(sb, &mut at);
    assert!(result["ips"].as_array().is_none_or(Vec::is_empty), "{result}");
    assert!(has_flag(&eth0(&ns), "UP") && addresses(&ns, "eth0").is_empty());
    chain.check(sb, &at).silent();
    ns.sh(&["ip", "link", "set", "eth0", "down"]);
    chain.check(sb, &at).error().names(&["eth0", "up", "down"]);
    chain.del(sb, &at);
    assert_eq!(link_names(&ns), ["lo"]);
}

fn check(sb: &Sandbox, kind: &'static Kind) {
    let _outside = kind.outside(sb);
    let conf = kind.with(&json!({"mtu": 1400}));
    let v4 = format!("{}.100/24", kind.v4);
    let spoilt: [(&[&str], &[&str]); 4] = [
        (&["ip", "addr", "del", &v4, "dev", "eth0"], &[&v4]),
        (&["ip", "link", "set", "eth0", "mtu", "1300"], &["mtu", "1400", "1300"]),
        (&["ip", "-6", "route", "del", "default"], &["route default via", "eth0"]),
        (&["ip", "link", "set", "eth0", "down"], &["eth0", "up", "down"]),
    ];
    for (words, named) in spoilt {
        let (ns, at) = attached(sb, &conf, "c1");
        ns.sh(words);
        chain(sb, &conf).check(sb, &at).error().names(named);
        chain(sb, &conf).del(sb, &at);
        ns.delete();
    }
    // The master is another one now.
    let (_ns, at) = attached(sb, &conf, "c1");
    sb.node().sh(&["ip", "link", "add", "other", "type", "veth", "peer", "name", "peer"]);
    chain(sb, &kind.with(&json!({"mtu": 1400, "master": "other"}))).check(sb, &at).error().names(&["eth0", "other"]);
    chain(sb, &kind.with(&json!({"mtu": 1400, "master": "none"}))).check(sb, &at).error().names(&["master none"]);
}

fn owner(sb: &Sandbox, kind: &'static Kind) {
    let _outside = kind.outside(sb);
    let (ns, _at) = attached(sb, &kind.network(), "c1");
    let found = eth0(&ns);
    assert_eq!(found["ifalias"], "cni wire c1 eth0");
    let altnames = found["altnames"].as_array().unwrap();
    assert_eq!(altnames.len(), 2, "the owner and the node: {found}");
    assert!(altnames.iter().all(|name| name.as_str().unwrap().starts_with("cni-")), "{found}");
}

fn repeat(sb: &Sandbox, kind: &'static Kind) {
    let _outside = kind.outside(sb);
    let (ns, at) = attached(sb, &kind.network(), "c1");
    let before = Snapshot::of(&[&sb.node(), &ns]);
    tried(sb, &kind.network(), &ns, None).error().names(&["eth0", "already"]);
    Snapshot::of(&[&sb.node(), &ns]).same_as(&before);
    chain(sb, &kind.network()).check(sb, &at).silent();
}

fn rollback(sb: &Sandbox, kind: &'static Kind) {
    let _outside = kind.outside(sb);
    let ns = sb.container("c1");
    let shared = ["/var/lib/cni/networks/.host-local", "directory", "last_reserved", "wire/lock"];
    let before = Snapshot::of(&[&sb.node(), &ns]);
    // The kernel refuses a gateway that isn't on the link; IPAM has answered then, and the link has addresses.
    let mut conf = kind.network();
    conf["ipam"]["routes"] = json!([{"dst": "10.0.0.0/8", "gw": "203.0.113.1"}]);
    tried(sb, &conf, &ns, None).error().names(&["10.0.0.0/8", "203.0.113.1"]);
    assert_eq!(link_names(&ns), ["lo"]);
    Snapshot::of(&[&sb.node(), &ns]).same_but(&before, &shared);
    // IPAM fails.
    conf["ipam"] = json!({"type": "host-local", "subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"});
    tried(sb, &conf, &ns, None).error();
    assert_eq!(link_names(&ns), ["lo"]);
    Snapshot::of(&[&sb.node(), &ns]).same_but(&before, &shared);
}

fn absent(sb: &Sandbox, kind: &'static Kind) {
    let _outside = kind.outside(sb);
    let ns = sb.container("c1");
    tried(sb, &kind.with(&json!({"master": "none"})), &ns, None).error().names(&["master", "\"none\"", "node"]);
    sb.node().sh(&["ip", "route", "del", "default"]);
    sb.node().sh(&["ip", "-6", "route", "del", "default"]);
    tried(sb, &kind.with(&json!({"master": ""})), &ns, None).error().names(&["master", "default route", "node"]);
    let conf = kind.with(&json!({"master": "", "linkInContainer": true}));
    tried(sb, &conf, &ns, None).error().names(&["master", "default route", "container"]);
}

fn no_ethernet(sb: &Sandbox, kind: &'static Kind) {
    let _outside = kind.outside(sb);
    tried(sb, &kind.with(&json!({"master": "lo"})), &sb.container("c1"), None)
        .error()
        .names(&["master", "lo", "Ethernet"]);
    if kind.vlan.is_none() {
        sb.node().sh(&["ip", "link", "add", "br9", "type", "bridge"]);
        sb.node().sh(&["ip", "link", "add", "leg", "master", "br9", "type", "veth", "peer", "name", "other"]);
        tried(sb, &kind.with(&json!({"master": "leg"})), &sb.container("c2"), None)
            .error()
            .names(&["leg", "br9", "port"]);
    }
}

fn default_route(sb: &Sandbox, kind: &'static Kind) {
    let outside = kind.outside(sb);
    let (ns, at) = attached(sb, &kind.with(&json!({"master": null})), "c1");
    assert!(ping(&ns, Outside::V4) && ping(&outside.ns, &at.ip(false)));
    chain(sb, &kind.with(&json!({"master": null}))).check(sb, &at).silent();
}

/// An earlier plugin of the chain has made or found an interface of the node.
fn of_the_chain(sb: &Sandbox, kind: &'static Kind) {
    let _outside = kind.outside(sb);
    let node = sb.node();
    node.sh(&["ip", "link", "add", "made", "type", "veth", "peer", "name", "made-peer"]);
    node.sh(&["ip", "link", "set", "made", "up"]);
    let conf = kind.with(&json!({"master": null}));
    let version = chain(sb, &conf).version().to_owned();
    let previous = json!({"cniVersion": version, "interfaces": [{"name": "made"}], "ips": []});
    let ns = sb.container("c1");
    let result = tried(sb, &conf, &ns, Some(&previous)).result();
    let index = link(&node, "made").unwrap()["ifindex"].clone();
    assert_eq!(eth0(&ns)["link_index"], index);
    let names: Vec<_> = result["interfaces"].as_array().unwrap().iter().map(|found| found["name"].clone()).collect();
    assert_eq!(names, ["eth0", "made"]);
    let two = json!({"cniVersion": version, "interfaces": [{"name": "made"}, {"name": "up0"}], "ips": []});
    tried(sb, &conf, &sb.container("c2"), Some(&two)).error().names(&["master", "made", "up0"]);
}

fn in_container(sb: &Sandbox, kind: &'static Kind) {
    let outside = kind.outside(sb);
    let ns = sb.container("c1");
    sb.node().sh(&["ip", "link", "set", "up0", "netns", "c1", "name", "inside"]);
    ns.sh(&["ip", "link", "set", "inside", "up"]);
    let conf = kind.with(&json!({"master": "inside", "linkInContainer": true}));
    let mut at = Attachment::new("c1", &ns);
    let chain = chain(sb, &conf);
    chain.add(sb, &mut at);
    assert_eq!(eth0(&ns)["link"], "inside");
    assert!(ping(&ns, &format!("{}.2", kind.v4)) && ping(&outside.ns, &at.ip(false)));
    chain.check(sb, &at).silent();
    chain.del(sb, &at);
    assert_eq!(link_names(&ns), ["lo", "inside"]);
}

/// The master of many a node is called as a container's interface.
fn same_name(sb: &Sandbox, kind: &'static Kind) {
    let outside = kind.outside(sb);
    sb.node().sh(&["ip", "link", "set", "up0", "down"]);
    sb.node().sh(&["ip", "link", "set", "up0", "name", "eth0"]);
    sb.node().sh(&["ip", "link", "set", "eth0", "up"]);
    let conf = kind.with(&json!({"master": "eth0"}));
    let (ns, at) = attached(sb, &conf, "c1");
    assert!(ping(&ns, &format!("{}.2", kind.v4)) && ping(&outside.ns, &at.ip(false)));
    chain(sb, &conf).check(sb, &at).silent();
    chain(sb, &conf).del(sb, &at);
    assert_eq!((link_names(&ns).len(), link_names(&sb.node())), (1, vec!["lo".to_owned(), "eth0".to_owned()]));
}

fn bare_del(sb: &Sandbox, kind: &'static Kind) {
    let _outside = kind.outside(sb);
    let (ns, at) = attached(sb, &kind.network(), "c1");
    let conf = kind.with(&json!({"master": "gone", "mode": "none", "mtu": -7, "vlanId": 9999}));
    chain(sb, &conf).call(sb, "DEL", &conf, &at, None).run().silent();
    assert_eq!(link_names(&ns), ["lo"]);
    assert!(std::fs::metadata("/var/lib/cni/networks/wire/".to_owned() + &at.ip(false)).is_err());
}

fn lost_namespace(sb: &Sandbox, kind: &'static Kind) {
    let _outside = kind.outside(sb);
    let (ns, at) = attached(sb, &kind.network(), "c1");
    chain(sb, &kind.network()).del(sb, &at.nowhere());
    assert_eq!(link_names(&ns), ["lo"]);
}

fn dead_namespace(sb: &Sandbox, kind: &'static Kind) {
    let _outside = kind.outside(sb);
    let before = Snapshot::of(&[&sb.node()]);
    let (ns, at) = attached(sb, &kind.network(), "c1");
    ns.delete();
    chain(sb, &kind.network()).del(sb, &at);
    chain(sb, &kind.network()).del(sb, &at.nowhere());
    Snapshot::of(&[&sb.node()]).same_but(&before, &["/var/lib/cni", "\"up0\""]);
}

/// A process of a container.
struct Life(Child);

impl Life {
    fn of(ns: &Netns) -> Self {
        Self(ns.run(|| Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap()))
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn gc(sb: &Sandbox, kind: &'static Kind) {
    sb.needs(kind.plugin, "1.1.0");
    let _outside = kind.outside(sb);
    let all = [("c1", 0), ("c2", 1)].map(|(id, n)| attached(sb, &kind.nth(&kind.network(), n), id));
    let _lives: Vec<Life> = all.iter().map(|(ns, _)| Life::of(ns)).collect();
    chain(sb, &kind.network()).gc(sb, &[("c2", "eth0")]).silent();
    assert_eq!(all.each_ref().map(|(ns, _)| link_names(ns).len()), [1, 2]);
    let reserved =
        |at: &Attachment| std::fs::metadata("/var/lib/cni/networks/wire/".to_owned() + &at.ip(false)).is_ok();
    assert_eq!(all.each_ref().map(|(_, at)| reserved(at)), [false, true]);
}

/// A runtime that has lost everything but the container's ID; the container goes on.
fn by_owner(sb: &Sandbox, kind: &'static Kind) {
    let _outside = kind.outside(sb);
    let (ns, at) = attached(sb, &kind.network(), "c1");
    let (other, _) = attached(sb, &kind.nth(&kind.network(), 1), "c2");
    let nothing = Attachment { result: None, ..at }.nowhere();
    chain(sb, &kind.network()).del(sb, &nothing);
    assert_eq!([&ns, &other].map(|ns| link_names(ns).len()), [1, 2]);
    chain(sb, &kind.network()).del(sb, &nothing);
}

/// Runtimes pin a pod's namespace, and some keep no process in it.
fn gc_without_processes(sb: &Sandbox, kind: &'static Kind) {
    sb.needs(kind.plugin, "1.1.0");
    let _outside = kind.outside(sb);
    let (ns, _) = attached(sb, &kind.network(), "c1");
    chain(sb, &kind.network()).gc(sb, &[]).silent();
    assert_eq!(link_names(&ns), ["lo"]);
}

/// Nodes in namespaces of one machine see each other's processes and mounts, and may have networks of the same name.
fn gc_beside_another_node(sb: &Sandbox, kind: &'static Kind) {
    sb.needs(kind.plugin, "1.1.0");
    let _outside = kind.outside(sb);
    let node = sb.container("node2");
    node.sh(&["ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1"]);
    node.sh(&["sh", "-c", "ip link set up0 up && ip link set up1 up"]);
    let on_node2: Vec<String> = ["nsenter", "--net=/run/netns/node2", "--"].map(str::to_owned).into();
    let (single, pair) = (sb.container("c1"), sb.container("c2"));
    let mut single_conf = kind.network();
    single_conf.as_object_mut().unwrap().remove("ipam");
    single_conf["ipam"] = json!({"type": "static", "addresses": [{"address": "10.99.0.1/24", "gateway": "10.99.0.2"}]});
    let pair_conf = json!({"type": "ptp", "ipam": single_conf["ipam"]});
    for (conf, ns) in [(&single_conf, &single), (&pair_conf, &pair)] {
        let at = Attachment::new(&ns.name, ns);
        chain(sb, conf).call(sb, "ADD", conf, &at, None).under(&on_node2).run().result();
    }
    let links = || [link_names(&single), link_names(&pair), link_names(&node)];
    let before = links();
    assert_eq!(before.each_ref().map(Vec::len), [2, 2, 4]);
    chain(sb, &kind.network()).gc(sb, &[]).silent();
    assert_eq!(links(), before);
}

fn status(sb: &Sandbox, kind: &'static Kind) {
    sb.needs(kind.plugin, "1.1.0");
    let _outside = kind.outside(sb);
    let status = |keys: Value| chain(sb, &kind.with(&keys)).status(sb);
    status(json!({})).silent();
    let error = status(json!({"master": "none"})).error();
    assert_eq!(error.code, 50);
    error.names(&["master", "\"none\""]);
    status(json!({"mtu": 1501})).error().names(&["mtu", "1501", "1500"]);
    status(json!({"ipam": {"type": "no-such-ipam"}})).error().names(&["no-such-ipam"]);
    assert!(!link_names(&sb.node()).iter().any(|name| name == "cni-status"));
}

/// Neighbours on the wire hear where the addresses are now.
fn announced(sb: &Sandbox, kind: &'static Kind) {
    let outside = kind.outside(sb);
    let link = if kind.vlan.is_some() { "tagged" } else { "eth0" };
    let ears = listen(&outside.ns, link, "arp or (icmp6 and ip6[40] == 136)");
    let (ns, at) = attached(sb, &kind.network(), "c1");
    let mac = eth0(&ns)["address"].as_str().unwrap().to_owned();
    let (v4, v6) = (at.ip(false), at.ip(true));
    let (arp, advertisement) = ([&mac, "ff:ff:ff:ff:ff:ff", "ARP", &v4], [&mac, "advertisement", &v6]);
    let text = heard(ears, &[&arp, &advertisement]);
    for words in [&arp[..], &advertisement] {
        let said = text.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(said, "no packet with {words:?} arrived: {text}");
    }
}

/// An IPAM plugin of the type `dhcp` speaks through the link: it has it, with its hardware address, at ADD and at DEL; and what it
/// gives is announced, though the link was up before.
fn dhcp(sb: &Sandbox, kind: &'static Kind) {
    let outside = kind.outside(sb);
    let (v4, netns) = (kind.v4, "${CNI_NETNS##*/}");
    // By its path: a shell may have one of its own.
    let path = std::env::var_os("PATH").unwrap();
    let ip = std::env::split_paths(&path).map(|dir| dir.join("ip")).find(|ip| ip.exists()).unwrap();
    let ip = ip.display();
    sb.fake(
        "dhcp",
        &format!(
            r#"exec 2>&1
            echo "$CNI_COMMAND $({ip} -n {netns} -o link show eth0)" >>/run/calls
            [ "$CNI_COMMAND" = ADD ] || exit 0
            {ip} -n {netns} link set eth0 up
            echo '{{"cniVersion": "1.0.0", "ips": [{{"address": "{v4}.77/24"}}]}}'"#
        ),
    );
    let conf = kind.with(&json!({"ipam": {"type": "dhcp"}}));
    let (chain, ns) = (chain(sb, &conf), sb.container("c1"));
    let call =
        |verb: &str, at: &Attachment| chain.call(sb, verb, &conf, at, at.result.as_ref()).env("CNI_PATH", FAKES).run();
    let link = if kind.vlan.is_some() { "tagged" } else { "eth0" };
    let ears = (kind.plugin != "ipvlan").then(|| listen(&outside.ns, link, "arp"));
    let mut at = Attachment::new("c1", &ns);
    at.result = Some(call("ADD", &at).result());
    let mac = eth0(&ns)["address"].as_str().unwrap().to_owned();
    if let Some(ears) = ears {
        let text = heard(ears, &[&[&mac, "ff:ff:ff:ff:ff:ff", "ARP", &at.ip(false)]]);
        assert!(text.contains(&at.ip(false)), "{text}");
    }
    call("DEL", &at).silent();
    assert_eq!(link_names(&ns), ["lo"]);
    let calls = std::fs::read_to_string("/run/calls").unwrap();
    let calls: Vec<&str> = calls.lines().collect();
    assert!(calls.len() == 2 && calls[0].starts_with("ADD ") && calls[1].starts_with("DEL "), "{calls:?}");
    assert!(calls.iter().all(|line| line.contains(&mac)), "{mac}: {calls:?}");
}

/// Skips the case where the kernel has no VLANs.
fn need_vlans(sb: &Sandbox) {
    if !sb.node().holds(&["ip", "link", "add", "link", "up0", "name", "probe", "type", "vlan", "id", "7"]) {
        verdict::skip("this kernel has no vlan links");
    }
    sb.node().sh(&["ip", "link", "del", "probe"]);
}

fn created_master(sb: &Sandbox, kind: &'static Kind) {
    let _outside = kind.outside(sb);
    need_vlans(sb);
    let node = sb.node();
    let conf = kind.with(&json!({"master": "up0.42", "createMaster": true}));
    let all = [("c1", 0), ("c2", 1), ("c3", 2)].map(|(id, n)| attached(sb, &kind.nth(&conf, n), id));
    let made = link(&node, "up0.42").unwrap();
    assert_eq!((&made["linkinfo"]["info_data"]["id"], &made["link"]), (&42.into(), &"up0".into()));
    assert!(has_flag(&made, "UP"));
    chain(sb, &conf).check(sb, &all[0].1).silent();
    tried(sb, &conf, &all[0].0, None).error().names(&["already"]);
    // Without namespace, result and the key itself.
    let bare = kind.network();
    for (_, at) in &all[..2] {
        chain(sb, &bare).call(sb, "DEL", &bare, &at.clone().nowhere(), None).run().silent();
        assert!(link(&node, "up0.42").is_some());
    }
    all[2].0.delete();
    if sb.versions(kind.plugin).iter().any(|version| version == "1.1.0") {
        chain(sb, &bare).gc(sb, &[("c3", "eth0")]).silent();
        assert!(link(&node, "up0.42").is_some());
        chain(sb, &bare).gc(sb, &[]).silent();
    } else {
        chain(sb, &bare).del(sb, &all[2].1);
    }
    assert!(link(&node, "up0.42").is_none());
    // An ADD that fails takes its share back.
    let mut failing = conf.clone();
    failing["ipam"]["routes"] = json!([{"dst": "10.0.0.0/8", "gw": "203.0.113.1"}]);
    tried(sb, &failing, &sb.container("c4"), None).error();
    assert!(link(&node, "up0.42").is_none());
}

fn found_master(sb: &Sandbox, kind: &'static Kind) {
    let _outside = kind.outside(sb);
    need_vlans(sb);
    sb.node().sh(&["ip", "link", "add", "link", "up0", "name", "up0.42", "type", "vlan", "id", "42"]);
    sb.node().sh(&["ip", "link", "set", "up0.42", "up"]);
    let conf = kind.with(&json!({"master": "up0.42", "createMaster": true}));
    let (_ns, at) = attached(sb, &conf, "c1");
    chain(sb, &conf).del(sb, &at);
    assert!(link(&sb.node(), "up0.42").is_some());
}

fn bad_created_master(sb: &Sandbox, kind: &'static Kind) {
    let _outside = kind.outside(sb);
    let ns = sb.container("c1");
    for (keys, named) in [
        (json!({"master": "none"}), &["createMaster", "\"none\"", "4094"][..]),
        (json!({"master": "up0.4095"}), &["createMaster", "up0.4095", "4094"]),
        (json!({"master": "none.5"}), &["createMaster", "none.5", "\"none\""]),
        (json!({"master": null}), &["createMaster", "master"]),
        (json!({"linkInContainer": true}), &["createMaster", "linkInContainer"]),
    ] {
        let mut conf = kind.with(&keys);
        conf["createMaster"] = true.into();
        tried(sb, &conf, &ns, None).error().names(named);
        if sb.versions(kind.plugin).iter().any(|version| version == "1.1.0") {
            chain(sb, &conf).status(sb).error().names(named);
        }
    }
    assert_eq!(link_names(&ns), ["lo"]);
}
