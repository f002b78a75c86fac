//! firewall: what it shares with the Go plugin, rules and refusals.

use std::path::Path;

use cni_tests::conf::{self, Backend};
use cni_tests::{Attachment, Chain, Sandbox, Snapshot, netns, rules, verdict};
use serde_json::{Value, json};

use super::{about_bridge, add, call};
use crate::case::{Case, common, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        common("rules_in_the_go_plugins_words", go_words),
        common("version_0.3.1_is_refused", old_version),
        common("needs_prev_result", needs_result),
        common("result_is_passed_on", passed_on),
        improved("check_and_del_of_gos_rules", gos_rules),
        improved("policy_that_go_made_stays", gos_policy),
        improved("check_of_gos_add_at_an_address_that_gos_del_left", given_to_another),
        improved("check_of_gos_add_at_another_address", moved_by_go),
        improved("check_names_an_owner_that_is_there", held_by_the_living),
        improved("check_after_the_backend_was_changed", backend_changed),
        improved("check_of_gos_add_at_a_port_that_gos_del_left", port_left),
        improved("accepts_come_behind_the_policies", order),
        improved("unknown_policy_is_refused_before_the_deed", unknown_policy),
        improved("policy_without_bridge_is_refused_before_the_deed", no_bridge),
        improved("admin_chain_and_nftables", admin_chain),
    ]
}

/// The texts that the Go plugin looks for, from its own run (Debian 12, plugins 1.1.1).
const GO: [(&str, &str); 4] = [
    ("filter", "-A FORWARD -m comment --comment \"CNI firewall plugin rules\" -j CNI-FORWARD"),
    ("filter", "-A CNI-FORWARD -m comment --comment \"CNI firewall plugin admin overrides\" -j CNI-ADMIN"),
    ("filter", "-A CNI-FORWARD -d 10.9.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
    ("filter", "-A CNI-FORWARD -s 10.9.0.2/32 -j ACCEPT"),
];

fn go_words(sb: &Sandbox) {
    add(sb, Backend::Iptables, "open", "c1", 2);
    for (table, line) in GO {
        let saved = rules::saved(&sb.node(), "iptables-save", table);
        assert!(saved.contains(line), "{line} is not in {saved}");
    }
}

fn as_go_does(policy: bool) {
    let mut lines = "*filter\n:CNI-FORWARD - [0:0]\n:CNI-ADMIN - [0:0]\n".to_owned();
    GO.iter().for_each(|(_, line)| lines += &format!("{line}\n"));
    if policy {
        let comment = "-m comment --comment \"CNI firewall plugin rules (ingressPolicy: same-bridge)\"";
        lines += ":CNI-ISOLATION-STAGE-1 - [0:0]\n:CNI-ISOLATION-STAGE-2 - [0:0]\n";
        lines += &format!("-I FORWARD {comment} -j CNI-ISOLATION-STAGE-1\n");
        lines += &format!("-A CNI-ISOLATION-STAGE-1 -i br0 ! -o br0 {comment} -j CNI-ISOLATION-STAGE-2\n");
        lines += &format!("-A CNI-ISOLATION-STAGE-1 {comment} -j RETURN\n");
        lines += &format!("-A CNI-ISOLATION-STAGE-2 -o br0 {comment} -j DROP\n");
        lines += &format!("-A CNI-ISOLATION-STAGE-2 {comment} -j RETURN\n");
    }
    std::fs::create_dir_all("/run/cni-test").unwrap();
    std::fs::write("/run/cni-test/go", lines + "COMMIT\n").unwrap();
    netns::sh(&["iptables-restore", "--noflush", "/run/cni-test/go"]);
}

/// A node is upgraded under running containers.
fn gos_rules(sb: &Sandbox) {
    as_go_does(false);
    let mut conf = conf::firewall_alone(sb, Backend::Iptables, "open", 2);
    conf["prevResult"]["ips"].as_array_mut().unwrap().truncate(1);
    // CHECK does not ask for rules that the Go plugin doesn't create.
    call(sb, "CHECK", "c1", &conf).silent();
    call(sb, "DEL", "other", &conf::firewall_alone(sb, Backend::Iptables, "open", 7)).silent();
    call(sb, "DEL", "c1", &conf).silent();
    assert!(rules::naming(&sb.node(), "10.9.0.2").is_empty());
}

fn gos_policy(sb: &Sandbox) {
    as_go_does(true);
    let before = about_bridge(sb);
    let conf = add(sb, Backend::Iptables, "same-bridge", "c2", 3);
    call(sb, "CHECK", "c2", &conf).silent();
    call(sb, "DEL", "c2", &conf).silent();
    for line in before {
        assert!(about_bridge(sb).contains(&line), "containers that Go added need {line}");
    }
}

fn order(sb: &Sandbox) {
    let conf = add(sb, Backend::Iptables, "same-bridge", "c1", 2);
    let forward = "FORWARD -m comment --comment 'CNI firewall plugin rules' -j CNI-FORWARD";
    netns::sh(&["sh", "-c", &format!("iptables -D {forward}; iptables -I {forward}")]);
    call(sb, "CHECK", "c1", &conf).error().names(&["CNI-ISOLATION-STAGE-1", "behind"]);
    call(sb, "ADD", "c1", &conf).result();
    call(sb, "CHECK", "c1", &conf).silent();
}

fn old_version(sb: &Sandbox) {
    let mut conf = conf::firewall_alone(sb, Backend::Iptables, "open", 2);
    conf["cniVersion"] = "0.3.1".into();
    assert_eq!(call(sb, "ADD", "c1", &conf).error().code, 1);
}

fn needs_result(sb: &Sandbox) {
    let mut conf = conf::firewall_alone(sb, Backend::Iptables, "open", 2);
    conf.as_object_mut().map(|c| c.remove("prevResult"));
    for verb in ["ADD", "CHECK"] {
        call(sb, verb, "c1", &conf).error().names(&["prevResult"]);
    }
    call(sb, "DEL", "c1", &conf).silent();
}

fn passed_on(sb: &Sandbox) {
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        if !sb.versions("firewall").iter().any(|v| v == version) {
            continue;
        }
        let mut conf = conf::firewall_alone(sb, Backend::Iptables, "open", 2);
        conf["cniVersion"] = version.into();
        conf["prevResult"]["cniVersion"] = version.into();
        let result = call(sb, "ADD", "c1", &conf).result();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["interfaces"], conf["prevResult"]["interfaces"]);
        assert_eq!(result["ips"][0]["address"], "10.9.0.2/24");
    }
}

fn refused(sb: &Sandbox, conf: &Value, named: &[&str]) {
    drop(Snapshot::of(&[&sb.node()]));
    let before = Snapshot::of(&[&sb.node()]);
    call(sb, "ADD", "c1", conf).error().names(named);
    Snapshot::of(&[&sb.node()]).same_as(&before);
}

fn unknown_policy(sb: &Sandbox) {
    refused(sb, &conf::firewall_alone(sb, Backend::Iptables, "closed", 2), &["ingress policy", "closed"]);
}

fn no_bridge(sb: &Sandbox) {
    let mut conf = conf::firewall_alone(sb, Backend::Iptables, "isolated", 2);
    conf["prevResult"].as_object_mut().map(|r| r.remove("interfaces"));
    conf["prevResult"]["ips"].as_array_mut().into_iter().flatten().for_each(|ip| {
        ip.as_object_mut().map(|ip| ip.remove("interface"));
    });
    refused(sb, &conf, &["isolated", "bridge"]);
}

fn admin_chain(sb: &Sandbox) {
    let mut conf = conf::firewall_alone(sb, Backend::Nftables, "open", 2);
    conf["iptablesAdminChainName"] = "MINE".into();
    refused(sb, &conf, &["iptablesAdminChainName", "nftables"]);
    conf["backend"] = "iptables".into();
    call(sb, "ADD", "c1", &conf).result();
    assert!(!rules::naming(&sb.node(), "-j MINE").is_empty());
}

/// A network with this project's and the Go plugins by turns, as on a node that is upgraded and rolled back.
struct Mixed {
    ours: Sandbox,
    go: Sandbox,
    chain: Chain,
}

impl Mixed {
    fn new(sb: &Sandbox) -> Self {
        let go = sb.with_plugins(Path::new("/usr/lib/cni"));
        if !go.has("firewall") {
            verdict::skip("no Go plugins here");
        }
        let bridge = json!({
            "type": "bridge", "bridge": "br0", "isGateway": true, "ipMasq": true, "capabilities": {"ips": true},
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}]]}
        });
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        let firewall = json!({"type": "firewall", "backend": "iptables"});
        Self { ours: sb.with_plugins(sb.dir()), go, chain: Chain::new("net1", "1.0.0", &[bridge, portmap, firewall]) }
    }

    fn attachment(&self, id: &str, address: &str) -> Attachment {
        let ns = self.ours.container(id);
        Attachment::new(id, &ns).publish(&[(8080, 80, "tcp")]).with("ips", json!([address]))
    }

    fn entries(&self) -> Vec<String> {
        let listed = self.ours.node().sh(&["iptables", "-S", "CNI-FORWARD-PUBLISHED"]);
        listed.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect()
    }
}

/// Go's DEL knows nothing of our entry for the address, and its next ADD gives that to another container.
fn given_to_another(sb: &Sandbox) {
    let mixed = Mixed::new(sb);
    let (mut one, mut two) = (mixed.attachment("c1", "10.9.0.42"), mixed.attachment("c2", "10.9.0.42"));
    mixed.chain.add(&mixed.ours, &mut one);
    mixed.chain.try_del(&mixed.go, &one).silent();
    assert_eq!(mixed.entries().len(), 1, "Go leaves it");
    mixed.chain.add(&mixed.go, &mut two);
    mixed.chain.check(&mixed.ours, &two).silent();
    mixed.chain.del(&mixed.ours, &two);
    mixed.chain.add(&mixed.ours, &mut two);
    mixed.chain.check(&mixed.ours, &two).silent();
    mixed.chain.del(&mixed.ours, &two);
    assert!(mixed.entries().is_empty(), "{:?}", mixed.entries());
}

/// The same container again, at another address.
fn moved_by_go(sb: &Sandbox) {
    let mixed = Mixed::new(sb);
    let mut at = mixed.attachment("c1", "10.9.0.42");
    for by in [&mixed.go, &mixed.ours] {
        at = at.with("ips", json!(["10.9.0.42"]));
        mixed.chain.add(&mixed.ours, &mut at);
        mixed.chain.try_del(&mixed.go, &at).silent();
        at = at.with("ips", json!(["10.9.0.60"]));
        mixed.chain.add(by, &mut at);
        mixed.chain.check(&mixed.ours, &at).silent();
        mixed.chain.del(&mixed.ours, &at);
        assert!(mixed.entries().is_empty(), "{:?}", mixed.entries());
        assert!(rules::naming(&sb.node(), "10.9.0.").iter().all(|line| !line.contains("CNI-FORWARD")));
    }
}

/// Debian's Go plugins know no nftables: their DEL leaves our port, and it takes what is for the next container.
fn port_left(sb: &Sandbox) {
    let mut mixed = Mixed::new(sb);
    let mut plugins = mixed.chain.plugins().to_vec();
    plugins[1]["backend"] = "nftables".into();
    mixed.chain = Chain::new("net1", "1.0.0", &plugins);
    let (mut one, mut two) = (mixed.attachment("c1", "10.9.0.42"), mixed.attachment("c2", "10.9.0.60"));
    mixed.chain.add(&mixed.ours, &mut one);
    mixed.chain.try_del(&mixed.go, &one).silent();
    mixed.chain.add(&mixed.go, &mut two);
    mixed.chain.check(&mixed.ours, &two).error().names(&["8080", "c1"]);
    mixed.chain.del(&mixed.ours, &two);
    mixed.chain.add(&mixed.ours, &mut two);
    mixed.chain.check(&mixed.ours, &two).silent();
    mixed.chain.del(&mixed.ours, &two);
}

/// What is a difference if the other one is there.
fn held_by_the_living(sb: &Sandbox) {
    let mixed = Mixed::new(sb);
    let mut one = mixed.attachment("c1", "10.9.0.42");
    mixed.chain.add(&mixed.ours, &mut one);
    let mut two = mixed.attachment("c2", "10.9.0.42");
    two.result.clone_from(&one.result);
    let firewall = &mixed.chain.plugins()[2];
    let check = mixed.chain.call(&mixed.ours, "CHECK", firewall, &two, two.result.as_ref());
    check.run().error().names(&["10.9.0.42", "c1"]);
    mixed.chain.del(&mixed.ours, &one);
}

/// Containers that were added with the other backend are as sound as before.
fn backend_changed(sb: &Sandbox) {
    for (was, is) in [(Backend::Iptables, Backend::Nftables), (Backend::Nftables, Backend::Iptables)] {
        let old = add(sb, was, "same-bridge", "c1", 2);
        let new = conf::firewall_alone(sb, is, "same-bridge", 2);
        call(sb, "CHECK", "c1", &new).silent();
        call(sb, "DEL", "c1", &old).silent();
        call(sb, "CHECK", "c1", &new).error().names(&["10.9.0.2"]);
    }
}
