//! DEL: nothing of the attachment is left, whatever the runtime still knows, and other owners' objects are not touched.
//!
//! A first attachment comes and goes before the comparison, so that what all attachments share (the bridge, its
//! address, base chains) is there; after that, before and after must be equal line by line.

use cni_tests::conf::Backend;
use cni_tests::{Attachment, Chain, Sandbox, Snapshot, conf, rules};
use serde_json::{Value, json};

use crate::case::{Basis, Case, common, improved};
use cni_tests::plugins::{PLUGINS, VERSIONS, minimal, prepare, ready};
use cni_tests::story::{Container, Story};

/// What changes with every allocation and isn't a reservation.
const CURSOR: [&str; 1] = ["last_reserved_ip"];

type Scenario = fn(&Story, &Container);

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        improved("two_interfaces_of_one_container", two_interfaces),
        improved("ipam_gets_no_namespace_of_the_node", no_namespace_for_ipam),
    ];
    for backend in Backend::ALL {
        let basis = if backend == Backend::Nftables { Basis::Newer } else { Basis::Common };
        let rows: [(&str, Basis, Scenario); 7] = [
            ("del", basis, |s, c| s.chain.del(s.sb, &c.at)),
            ("del_twice", basis, |s, c| (0..2).for_each(|_| s.chain.del(s.sb, &c.at))),
            ("del_with_empty_netns", Basis::Improved, |s, c| s.chain.del(s.sb, &c.at.clone().nowhere())),
            ("del_after_the_netns_vanished", Basis::Improved, vanished),
            ("del_without_result", basis, without_result),
            ("del_after_addresses_were_removed", Basis::Improved, flushed),
            ("del_without_runtime_config", Basis::Improved, without_runtime_config),
        ];
        for (what, basis, end) in rows {
            let name = format!("{}::{what}", backend.name());
            cases.push(common(name, move |sb| nothing_left(sb, backend, end)).based_on(basis));
        }
        for plugin in ["bridge", "ptp"] {
            let name = format!("{}::{plugin}::after_the_configuration_changed", backend.name());
            cases.push(improved(name, move |sb| reconfigured(sb, backend, plugin, true)));
            let name = format!("{}::{plugin}::after_that_without_result", backend.name());
            cases.push(improved(name, move |sb| reconfigured(sb, backend, plugin, false)));
        }
    }
    for plugin in PLUGINS {
        let name = format!("{plugin}::after_the_netns_became_a_file");
        cases.push(improved(name, move |sb| became_a_file(sb, plugin)));
        let name = format!("{plugin}::after_the_netns_became_the_node_s");
        cases.push(improved(name, move |sb| became_the_nodes(sb, plugin)));
        for version in VERSIONS {
            let name = format!("{plugin}::never_added_{version}");
            // The Go plugins of these names fail without a namespace, and without a daemon.
            let basis = if matches!(plugin, "sbr" | "dhcp") { Basis::Improved } else { Basis::Common };
            cases.push(common(name, move |sb| never_added(sb, plugin, version)).based_on(basis));
        }
    }
    cases
}

const PORTS: [(u16, u16, &str); 2] = [(8080, 80, "tcp"), (5353, 80, "udp")];

fn nothing_left(sb: &Sandbox, backend: Backend, end: Scenario) {
    let story = Story::start(sb, backend);
    let first = story.attach("first", &[(1111, 80, "tcp")]);
    story.chain.del(sb, &first.at);
    let _stays = story.attach("stays", &[(2222, 80, "tcp")]);
    let before = Snapshot::of(&[&story.node]);
    let container = story.attach_bare("goes", &PORTS);
    end(&story, &container);
    Snapshot::of(&[&story.node]).same_but(&before, &CURSOR);
}

/// The operator has switched off, under running containers, what they were attached with.
fn reconfigured(sb: &Sandbox, backend: Backend, plugin: &str, with_result: bool) {
    let mut conf = conf::masquerading(backend);
    conf["type"] = plugin.into();
    conf["macspoofchk"] = (plugin == "bridge").into();
    let was = Chain::new("net", sb.newest(&[plugin, "host-local"]), &[conf.clone()]);
    conf["ipMasq"] = false.into();
    conf["macspoofchk"] = false.into();
    let is = Chain::new("net", was.version(), &[conf]);
    let mut stays = Attachment::new("stays", &sb.container("stays"));
    was.add(sb, &mut stays);
    let before = Snapshot::of(&[&sb.node()]);
    let mut goes = Attachment::new("goes", &sb.container("goes"));
    was.add(sb, &mut goes);
    goes.result = goes.result.filter(|_| with_result);
    is.del(sb, &goes);
    Snapshot::of(&[&sb.node()]).same_but(&before, &CURSOR);
}

fn vanished(story: &Story, container: &Container) {
    container.ns.delete();
    container.wait_for_its_link_to_go();
    story.chain.del(story.sb, &container.at);
}

/// What remains of `ip netns add` after a reboot, or an unmount: DEL has nothing to enter, and must not fail for ever.
fn became_a_file(sb: &Sandbox, plugin: &str) {
    let node = sb.node();
    let ns = if plugin == "tuning" { sb.container_with_eth0() } else { sb.container("c1") };
    let conf = with_state(plugin);
    let call = |verb: &str, conf: &Value| ready(sb, plugin, verb, "1.0.0", &ns).conf(conf);
    call("ADD", &conf).run().result();
    call("DEL", &conf).run().silent();
    let before = Snapshot::of(&[&node]);
    let result = call("ADD", &conf).run().result();
    ns.delete();
    cni_tests::dhcp::unlink(&ns.name);
    std::fs::write(ns.path(), "").unwrap();
    if matches!(plugin, "bridge" | "ptp" | "loopback" | "tuning") {
        call("ADD", &conf).run().error().names(&[&ns.path()]);
    }
    let mut with_result = conf.clone();
    if plugin != "tuning" {
        with_result["prevResult"] = result;
    }
    call("DEL", &with_result).run().silent();
    call("DEL", &conf).run().silent();
    if plugin == "tuning" {
        // Not a snapshot: its link was the case's own, which the kernel removes in its own time.
        let backups = std::fs::read_dir("/run/cni/tuning").map_or(0, Iterator::count);
        assert_eq!(backups, 0, "the backup is still there");
    } else if plugin == "host-device" {
        // Its device, one end of a veth pair, died with the namespace.
        assert!(Snapshot::of(&[&node]).naming("/run/cni/host-device/").is_empty(), "the device's file is still there");
    } else {
        Snapshot::of(&[&node]).same_but(&before, &[CURSOR[0], "v-c1"]);
    }
}

/// A configuration with which the plugin leaves as much on the node as it can.
fn with_state(plugin: &str) -> Value {
    let mut conf = minimal(plugin, "1.0.0");
    if matches!(plugin, "bridge" | "ptp") {
        (conf["ipMasq"], conf["ipMasqBackend"]) = (true.into(), "nftables".into());
        conf["ipam"] = json!({"type": "host-local", "subnet": "10.1.2.0/24"});
    }
    conf["mtu"] = 1400.into();
    if plugin == "portmap" {
        let mapping = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"});
        conf["runtimeConfig"] = json!({"portMappings": [mapping]});
    }
    if plugin == "tuning" {
        conf["sysctl"] = json!({"net.ipv4.conf.eth0.arp_filter": "1"});
    }
    conf
}

/// The runtime still has `/proc/PID/ns/net`, and PID is a process of the node by now. The node's links with the names of the
/// container's must stay, and everything of the owner is removed.
fn became_the_nodes(sb: &Sandbox, plugin: &str) {
    let node = sb.node();
    node.sh(&["ip", "link", "add", "eth0", "mtu", "1480", "type", "veth", "peer", "name", "other"]);
    node.sh(&["ip", "addr", "add", "10.99.0.1/24", "dev", "eth0"]);
    node.sh(&["ip", "link", "set", "eth0", "up"]);
    let ns = if plugin == "tuning" { sb.container_with_eth0() } else { sb.container("c1") };
    let conf = with_state(plugin);
    let call = |verb: &str| ready(sb, plugin, verb, "1.0.0", &ns).conf(&conf);
    call("ADD").run().result();
    call("DEL").run().silent();
    let before = Snapshot::of(&[&node]);
    let result = call("ADD").run().result();
    let mut with_result = conf.clone();
    if plugin != "tuning" {
        with_result["prevResult"] = result;
    }
    for conf in [&with_result, &conf] {
        call("DEL").conf(conf).env("CNI_NETNS", &node.path()).run().silent();
        Snapshot::of(&[&node]).same_but(&before, &CURSOR);
        assert_eq!(cni_tests::kernel::sysctl(&node, "ipv4/conf/eth0/arp_filter").as_deref(), Some("0"));
    }
}

/// A Go plugin refuses the node's own namespace after it has released the address, and so do those that aren't ours.
fn no_namespace_for_ipam(sb: &Sandbox) {
    let ns = sb.container("c1");
    let answer = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.5.0.9/24"}]}"#;
    sb.fake(
        "fake",
        &format!("cat >/run/stdin; env >/run/env-$CNI_COMMAND; [ $CNI_COMMAND != ADD ] || echo '{answer}'"),
    );
    let conf = conf::named("1.0.0", json!({"type": "bridge", "bridge": "br-test", "ipam": {"type": "fake"}}));
    let call = |verb: &str| ready(sb, "bridge", verb, "1.0.0", &ns).conf(&conf);
    call("ADD").run().result();
    call("DEL").env("CNI_NETNS", &sb.node().path()).run().silent();
    let env = std::fs::read_to_string("/run/env-DEL").unwrap();
    assert!(env.contains("CNI_IFNAME=eth0") && !env.contains("CNI_NETNS"), "{env}");
    assert!(cni_tests::kernel::link(&ns, "eth0").is_none());
}

fn without_result(story: &Story, container: &Container) {
    let mut at = container.at.clone();
    at.result = None;
    story.chain.del(story.sb, &at);
}

fn without_runtime_config(story: &Story, container: &Container) {
    let mut at = container.at.clone();
    at.capabilities.clear();
    story.chain.del(story.sb, &at);
}

fn flushed(story: &Story, container: &Container) {
    container.ns.sh(&["ip", "addr", "flush", "dev", "eth0"]);
    story.chain.del(story.sb, &container.at);
}

/// The second interface's masquerade must outlive the DEL of the first. Without default routes, which would collide.
fn two_interfaces(sb: &Sandbox) {
    let story = Story::with(sb, Backend::Iptables, |bridge, _| bridge["isDefaultGateway"] = false.into());
    let before = Snapshot::of(&[&story.node]);
    let first = story.attach("c1", &[]);
    let mut second = Attachment::new("c1", &first.ns).on("eth1");
    story.chain.add(sb, &mut second);
    story.chain.del(sb, &first.at);
    for v6 in [false, true] {
        let rules = rules::naming(&story.node, &second.ip(v6));
        assert!(rules.iter().any(|r| r.contains("CNI-")), "eth1 is still masqueraded: {rules:?}");
    }
    story.chain.del(sb, &second);
    Snapshot::of(&[&story.node]).same_but(&before, &["br-test", "/var/lib/cni", "forward", "CNI-HOSTPORT"]);
}

fn never_added(sb: &Sandbox, plugin: &str, version: &str) {
    sb.needs(plugin, version);
    prepare(sb, plugin);
    let (node, ns) = (sb.node(), sb.container("c1"));
    let before = Snapshot::of(&[&node, &ns]);
    let mut conf = minimal(plugin, version);
    conf.as_object_mut().map(|c: &mut serde_json::Map<String, Value>| c.remove("prevResult"));
    let call = ready(sb, plugin, "DEL", version, &ns).conf(&conf);
    for call in [call.clone(), call.clone(), call.without("CNI_NETNS")] {
        call.run().silent();
    }
    // The Go plugin makes its directory and the lock in it on DEL too.
    Snapshot::of(&[&node, &ns]).same_but(&before, &["/var/lib/cni"]);
}
