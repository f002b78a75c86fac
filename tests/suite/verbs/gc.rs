//! GC: removes all that belongs to attachments that are no longer valid; the valid ones stay and work.

use cni_tests::conf::Backend;
use cni_tests::packets::{Outside, Proto, ask, at, silent};
use cni_tests::{Sandbox, Snapshot, conf, rules};
use serde_json::{Value, json};

use crate::case::{Case, improved, newer};
use cni_tests::host_local::{added, call, names};
use cni_tests::plugins::{PLUGINS, minimal};
use cni_tests::story::Story;

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        improved("host_local_keeps_only_the_valid", reservations),
        improved("host_local_tells_interfaces_apart", interfaces),
        improved("host_local_leaves_other_networks_alone", other_network),
        improved("bridge_forwards_to_ipam", forwards),
    ];
    for backend in Backend::ALL {
        let name = |what: &str| format!("{}::{what}", backend.name());
        cases.push(newer(name("without_a_list_succeeds_and_removes_nothing"), move |sb| no_list(sb, backend)));
        cases.push(improved(name("a_subset_survives_and_works"), move |sb| subset(sb, backend)));
        cases.push(improved(name("of_nothing_removes_everything"), move |sb| nothing_valid(sb, backend)));
        cases.push(newer(name("of_all_changes_nothing"), move |sb| all_valid(sb, backend)));
        cases.push(improved(name("leaves_other_networks_alone"), move |sb| foreign(sb, backend)));
    }
    cases.extend(PLUGINS.map(|plugin| {
        newer(format!("{plugin}::on_an_untouched_node"), move |sb: &Sandbox| {
            sb.needs(plugin, "1.1.0");
            let before = Snapshot::of(&[&sb.node()]);
            let mut conf = minimal(plugin, "1.1.0");
            conf["cni.dev/valid-attachments"] = json!([]);
            sb.plugin(plugin, "GC").conf(&conf).run().silent();
            Snapshot::of(&[&sb.node()]).same_but(&before, &["/var/lib/cni"]);
        })
    }));
    cases
}

fn gc(sb: &Sandbox, conf: &Value, valid: &[(&str, &str)]) {
    let mut conf = conf.clone();
    let list = valid.iter().map(|(id, ifname)| json!({"containerID": id, "ifname": ifname}));
    conf["cni.dev/valid-attachments"] = list.collect();
    sb.plugin("host-local", "GC").conf(&conf).run().silent();
}

fn ranges(sb: &Sandbox) -> Value {
    sb.needs("host-local", "1.1.0");
    conf::host_local("1.1.0", &["10.1.2.0/24"])
}

fn reservations(sb: &Sandbox) {
    let conf = ranges(sb);
    ["c1", "c2", "c3"].iter().for_each(|id| drop(added(sb, id, &conf)));
    gc(sb, &conf, &[("c2", "eth0")]);
    assert_eq!(names(), ["10.1.2.3", "last_reserved_ip.0", "lock"]);
    gc(sb, &conf, &[("c2", "eth0")]);
    gc(sb, &conf, &[]);
    assert_eq!(names(), ["last_reserved_ip.0", "lock"]);
    assert_eq!(added(sb, "c4", &conf), ["10.1.2.5/24"], "and allocation goes on after the last");
}

fn interfaces(sb: &Sandbox) {
    let conf = ranges(sb);
    added(sb, "c1", &conf);
    call(sb, "ADD", "c1", &conf).names("c1", "eth1").run().result();
    gc(sb, &conf, &[("c1", "eth1")]);
    assert_eq!(names(), ["10.1.2.3", "last_reserved_ip.0", "lock"]);
}

fn other_network(sb: &Sandbox) {
    let conf = ranges(sb);
    added(sb, "c1", &conf);
    let mut other = conf.clone();
    other["name"] = "another".into();
    gc(sb, &other, &[]);
    assert_eq!(names(), ["10.1.2.2", "last_reserved_ip.0", "lock"]);
}

fn forwards(sb: &Sandbox) {
    sb.needs("bridge", "1.1.0");
    sb.fake("noting", "cat >/run/said-$CNI_COMMAND");
    let conf = json!({
        "cniVersion": "1.1.0", "name": "testnet", "type": "bridge", "ipam": {"type": "noting"},
        "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]
    });
    sb.plugin("bridge", "GC").conf(&conf).run().silent();
    let said = std::fs::read_to_string("/run/said-GC").expect("the IPAM plugin is called with GC");
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap(), conf, "and gets the whole configuration");
}

/// A story at 1.1.0, which GC needs.
fn story(sb: &Sandbox, backend: Backend) -> Story<'_> {
    sb.needs("bridge", "1.1.0");
    Story::start(sb, backend)
}

fn subset(sb: &Sandbox, backend: Backend) {
    let story = story(sb, backend);
    let stays = story.attach("stays", &[(8080, 80, "tcp")]);
    let goes = story.attach("goes", &[(9090, 80, "tcp")]);
    story.chain.gc(sb, &[("stays", "eth0")]).silent();
    for v6 in [false, true] {
        let left = Snapshot::of(&[&story.node]);
        let left: Vec<_> = left.naming(&goes.ip(v6)).into_iter().filter(|l| !l.contains("last_reserved")).collect();
        assert!(left.is_empty(), "of the one that is gone: {left:?}");
    }
    assert!(rules::naming(&story.node, "goes").is_empty());
    assert!(silent(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, 9090)));
    for (from, to) in [(&story.outside.ns, Outside::NODE_V4), (&story.outside.ns, Outside::NODE_V6)] {
        let answer = ask(from, Proto::Tcp, at(to, 8080)).unwrap();
        assert!(answer.starts_with("stays "), "{answer}");
    }
    story.chain.check(sb, &stays.at).silent();
}

/// The base chains, the bridge and the cursor stay; of the attachments nothing does.
/// What `cnitool gc` sends, as libcni leaves the key out where its caller has no list.
fn no_list(sb: &Sandbox, backend: Backend) {
    let story = story(sb, backend);
    let container = story.attach("c1", &[(8080, 80, "tcp")]);
    let before = Snapshot::of(&[&story.node]);
    for plugin in story.chain.plugins() {
        let mut conf = plugin.clone();
        (conf["name"], conf["cniVersion"]) = (story.chain.name().into(), "1.1.0".into());
        sb.plugin(plugin["type"].as_str().unwrap(), "GC").conf(&conf).run().silent();
    }
    Snapshot::of(&[&story.node]).same_as(&before);
    story.chain.check(sb, &container.at).silent();
}

fn nothing_valid(sb: &Sandbox, backend: Backend) {
    let story = story(sb, backend);
    story.chain.del(sb, &story.attach_bare("first", &[(1111, 80, "tcp")]).at);
    let before = Snapshot::of(&[&story.node]);
    for id in ["c1", "c2"] {
        let container = story.attach_bare(id, &[(if id == "c1" { 8080 } else { 9090 }, 80, "tcp")]);
        container.ns.delete();
        container.wait_for_its_link_to_go();
    }
    story.chain.gc(sb, &[]).silent();
    Snapshot::of(&[&story.node]).same_but(&before, &["last_reserved_ip"]);
}

fn all_valid(sb: &Sandbox, backend: Backend) {
    let story = story(sb, backend);
    let _one = story.attach("c1", &[(8080, 80, "tcp")]);
    let _two = story.attach("c2", &[(9090, 80, "tcp")]);
    let before = Snapshot::of(&[&story.node]);
    story.chain.gc(sb, &[("c1", "eth0"), ("c2", "eth0"), ("never-was", "eth0")]).silent();
    Snapshot::of(&[&story.node]).same_as(&before);
}

fn foreign(sb: &Sandbox, backend: Backend) {
    let story = story(sb, backend);
    let _one = story.attach("c1", &[(8080, 80, "tcp")]);
    let before = Snapshot::of(&[&story.node]);
    let mut other = conf::masquerading(backend);
    other["bridge"] = "br-other".into();
    let other = cni_tests::Chain::new("another", "1.1.0", &[other, conf::portmap(backend)]);
    other.gc(sb, &[]).silent();
    Snapshot::of(&[&story.node]).same_but(&before, &["networks/another"]);
}
