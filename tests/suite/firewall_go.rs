//! firewall: what it shares with the Go plugin, rules and refusals.

use cni_tests::conf::Backend;
use cni_tests::{Sandbox, Snapshot, netns, rules};
use serde_json::Value;

use crate::case::{Case, common, improved};
use crate::firewall_state::{about_bridge, add, call, conf_of};

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        common("firewall::rules_in_the_go_plugins_words", go_words),
        common("firewall::version_0.3.1_is_refused", old_version),
        common("firewall::needs_prev_result", needs_result),
        common("firewall::result_is_passed_on", passed_on),
        improved("firewall::check_and_del_of_gos_rules", gos_rules),
        improved("firewall::policy_that_go_made_stays", gos_policy),
        improved("firewall::accepts_come_behind_the_policies", order),
        improved("firewall::unknown_policy_is_refused_before_the_deed", unknown_policy),
        improved("firewall::policy_without_bridge_is_refused_before_the_deed", no_bridge),
        improved("firewall::admin_chain_and_nftables", admin_chain),
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
    let mut conf = conf_of(sb, Backend::Iptables, "open", 2);
    conf["prevResult"]["ips"].as_array_mut().unwrap().truncate(1);
    // What is beyond Go's rules is not there yet, and nobody's fault.
    call(sb, "CHECK", "c1", &conf).silent();
    call(sb, "DEL", "other", &conf_of(sb, Backend::Iptables, "open", 7)).silent();
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
    let mut conf = conf_of(sb, Backend::Iptables, "open", 2);
    conf["cniVersion"] = "0.3.1".into();
    assert_eq!(call(sb, "ADD", "c1", &conf).error().code, 1);
}

fn needs_result(sb: &Sandbox) {
    let mut conf = conf_of(sb, Backend::Iptables, "open", 2);
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
        let mut conf = conf_of(sb, Backend::Iptables, "open", 2);
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
    refused(sb, &conf_of(sb, Backend::Iptables, "closed", 2), &["ingress policy", "closed"]);
}

fn no_bridge(sb: &Sandbox) {
    let mut conf = conf_of(sb, Backend::Iptables, "isolated", 2);
    conf["prevResult"].as_object_mut().map(|r| r.remove("interfaces"));
    conf["prevResult"]["ips"].as_array_mut().into_iter().flatten().for_each(|ip| {
        ip.as_object_mut().map(|ip| ip.remove("interface"));
    });
    refused(sb, &conf, &["isolated", "bridge"]);
}

fn admin_chain(sb: &Sandbox) {
    let mut conf = conf_of(sb, Backend::Nftables, "open", 2);
    conf["iptablesAdminChainName"] = "MINE".into();
    refused(sb, &conf, &["iptablesAdminChainName", "nftables"]);
    conf["backend"] = "iptables".into();
    call(sb, "ADD", "c1", &conf).result();
    assert!(!rules::naming(&sb.node(), "-j MINE").is_empty());
}
