//! firewall: what it leaves, checks, collects and refuses, without a packet.

use cni_tests::conf::{self, Backend};
use cni_tests::{Outcome, Sandbox, Snapshot, netns, rules};
use serde_json::{Value, json};

use crate::case::{Case, common, improved};
use crate::firewall::firewall;

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        common("firewall::rules_in_the_go_plugins_words", go_words),
        common("firewall::version_0.3.1_is_refused", old_version),
        common("firewall::needs_prev_result", needs_result),
        common("firewall::result_is_passed_on", passed_on),
        improved("firewall::del_of_gos_rules", gos_rules),
        improved("firewall::policy_that_go_made_stays", gos_policy),
        improved("firewall::accepts_come_behind_the_policies", order),
        improved("firewall::nftables_rules_survive_a_reload", reload),
        improved("firewall::status_without_iptables", no_tool),
        improved("firewall::unknown_policy_is_refused_before_the_deed", unknown_policy),
        improved("firewall::policy_without_bridge_is_refused_before_the_deed", no_bridge),
        improved("firewall::admin_chain_and_nftables", admin_chain),
        improved("firewall::dropping_legacy_chain_is_named", legacy_drops),
    ];
    for backend in Backend::ALL {
        let name = |what: &str| format!("firewall::{}_{what}", backend.name());
        let rows: [(&str, Told); 11] = [
            ("del_leaves_nothing", del),
            ("del_without_result_leaves_nothing", del_without_result),
            ("del_under_another_policy_leaves_nothing", del_other_policy),
            ("add_twice_is_add_once", twice),
            ("policy_goes_with_the_last_owner", last_owner),
            ("policy_is_replaced", replaced),
            ("address_that_changed_hands", changed_hands),
            ("two_interfaces", two_interfaces),
            ("gc_keeps_the_valid", gc),
            ("check_changes_nothing", check_is_pure),
            ("check_names_what_is_gone", noticed),
        ];
        cases.extend(rows.map(|(what, story)| improved(name(what), move |sb| story(sb, backend))));
        for chain in &CHAINS {
            cases.push(improved(name(chain.what), move |sb| foreign(sb, backend, chain)));
        }
    }
    cases
}

type Told = fn(&Sandbox, Backend);

/// The configuration for an attachment that got addresses `.n` on bridge `br0`.
fn conf_of(sb: &Sandbox, backend: Backend, policy: &str, n: u8) -> Value {
    let mut conf = conf::named(sb.newest(&["firewall"]), firewall(backend, policy));
    conf["prevResult"] = json!({
        "cniVersion": conf["cniVersion"],
        "interfaces": [{"name": "br0"}, {"name": "veth0"}, {"name": "eth0", "sandbox": "/run/netns/c"}],
        "ips": [{"address": format!("10.9.0.{n}/24"), "interface": 2}, {"address": format!("fd00:9::{n}/64"), "interface": 2}]
    });
    conf
}

fn call(sb: &Sandbox, verb: &str, id: &str, conf: &Value) -> Outcome {
    let call = sb.plugin("firewall", verb).names(id, "eth0").env("CNI_NETNS", "/run/netns/none");
    call.conf(conf).run()
}

fn add(sb: &Sandbox, backend: Backend, policy: &str, id: &str, n: u8) -> Value {
    let conf = conf_of(sb, backend, policy, n);
    call(sb, "ADD", id, &conf).result();
    conf
}

/// A node on which the frame is there, for one attachment has come and gone and another stays.
fn used(sb: &Sandbox, backend: Backend) -> Snapshot {
    let conf = add(sb, backend, "isolated", "first", 2);
    call(sb, "DEL", "first", &conf).silent();
    let mut elsewhere = conf_of(sb, backend, "isolated", 3);
    elsewhere["prevResult"]["interfaces"][0]["name"] = "br1".into();
    call(sb, "ADD", "stays", &elsewhere).result();
    Snapshot::of(&[&sb.node()])
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
        call(sb, "DEL", "stays", &conf_of(sb, backend, "open", 3)).silent();
    }
}

fn twice(sb: &Sandbox, backend: Backend) {
    add(sb, backend, "isolated", "c1", 2);
    let once = Snapshot::of(&[&sb.node()]);
    add(sb, backend, "isolated", "c1", 2);
    Snapshot::of(&[&sb.node()]).same_as(&once);
}

fn about_bridge(sb: &Sandbox) -> Vec<String> {
    rules::naming(&sb.node(), "br0")
}

fn last_owner(sb: &Sandbox, backend: Backend) {
    let one = add(sb, backend, "isolated", "c1", 2);
    let shared = about_bridge(sb).len();
    let two = add(sb, backend, "isolated", "c2", 3);
    call(sb, "DEL", "c1", &one).silent();
    assert_eq!(about_bridge(sb).len(), shared, "as long as somebody is behind it: {:?}", about_bridge(sb));
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

fn two_interfaces(sb: &Sandbox, backend: Backend) {
    let (one, two) = (conf_of(sb, backend, "open", 2), conf_of(sb, backend, "open", 3));
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

fn check_is_pure(sb: &Sandbox, backend: Backend) {
    // The listing itself makes iptables' own tables.
    drop(Snapshot::of(&[&sb.node()]));
    let before = Snapshot::of(&[&sb.node()]);
    call(sb, "CHECK", "c1", &conf_of(sb, backend, "isolated", 2)).error();
    Snapshot::of(&[&sb.node()]).same_as(&before);
    let conf = add(sb, backend, "isolated", "c1", 2);
    let before = Snapshot::of(&[&sb.node()]);
    call(sb, "CHECK", "c1", &conf).silent();
    Snapshot::of(&[&sb.node()]).same_as(&before);
}

/// Deletes each thing that can be deleted by itself and is needed, and puts it back by ADD.
fn noticed(sb: &Sandbox, backend: Backend) {
    let conf = add(sb, backend, "isolated", "c1", 2);
    let rows: &[(&str, &str)] = match backend {
        Backend::Iptables => &[
            ("iptables -D CNI-FORWARD -s 10.9.0.2 -j ACCEPT", "-s 10.9.0.2"),
            ("ip6tables -D CNI-FORWARD -s fd00:9::2 -j ACCEPT", "-s fd00:9::2"),
            ("iptables -F CNI-FORWARD", "CNI-ADMIN"),
            ("iptables -F FORWARD", "-A FORWARD"),
            ("iptables -D CNI-FORWARD-PUBLISHED 1", "CNI-FORWARD-PUBLISHED"),
            ("iptables -D CNI-ISOLATION-STAGE-1 1", "-i br0 -o br0"),
            ("ip6tables -F CNI-ISOLATION-STAGE-2", "-o br0"),
        ],
        Backend::Nftables => &[
            ("nft delete element inet cni_firewall accept4 { 10.9.0.2 }", "10.9.0.2"),
            ("nft delete element inet cni_firewall accept6 { fd00:9::2 }", "fd00:9::2"),
            ("nft delete element inet cni_firewall behind4 { 10.9.0.2 }", "10.9.0.2"),
            ("nft delete element inet cni_firewall closed { \"br0\" }", "br0"),
            ("nft delete element inet cni_firewall inside { \"br0\" . \"br0\" }", "br0"),
            ("nft flush chain inet cni_firewall isolate", "isolate"),
            ("nft flush chain inet cni_firewall accepting", "saddr @accept4"),
            ("nft flush chain inet cni_firewall refuse", "refuse"),
            ("nft delete table inet cni_firewall", "cni_firewall"),
        ],
    };
    for (deed, named) in rows {
        call(sb, "CHECK", "c1", &conf).silent();
        netns::sh(&["sh", "-c", deed]);
        call(sb, "CHECK", "c1", &conf).error().names(&[named]);
        call(sb, "ADD", "c1", &conf).result();
    }
}

/// A base chain of somebody else's.
struct Foreign {
    what: &'static str,
    rules: &'static str,
    drops: bool,
}

const CHAINS: [Foreign; 6] = [
    Foreign { what: "names_a_dropping_chain", rules: "policy drop;", drops: true },
    Foreign {
        what: "names_a_chain_for_replies_only",
        rules: "policy drop; ct state established,related accept; ct state vmap { established : accept, invalid : drop }; \
                iifname lo accept; tcp dport 22 accept; ip saddr 192.0.2.0/24 accept",
        drops: true,
    },
    Foreign {
        what: "names_a_chain_that_rejects_the_rest",
        rules: "ct state established accept; counter reject",
        drops: true,
    },
    Foreign { what: "is_content_with_an_accept", rules: "policy drop; ip saddr 10.0.0.0/8 accept", drops: false },
    Foreign {
        what: "is_content_with_the_mark",
        rules: "policy drop; meta mark & 0x1000 == 0x1000 accept",
        drops: false,
    },
    Foreign { what: "is_content_with_an_accepting_chain", rules: "tcp dport 25 drop", drops: false },
];

fn foreign(sb: &Sandbox, backend: Backend, chain: &Foreign) {
    sb.needs("firewall", "1.1.0");
    let conf = add(sb, backend, "open", "c1", 2);
    call(sb, "CHECK", "c1", &conf).silent();
    let text =
        format!("table inet mine {{ chain through {{ type filter hook forward priority 10; {}\n}}\n}}\n", chain.rules);
    std::fs::create_dir_all("/run/cni-test").unwrap();
    std::fs::write("/run/cni-test/rules", text).unwrap();
    netns::sh(&["nft", "-f", "/run/cni-test/rules"]);
    let mut outcomes = vec![call(sb, "CHECK", "c1", &conf)];
    // STATUS knows no address, so an accept for one may be for ours.
    if !chain.rules.contains("192.0.2.0") {
        outcomes.push(sb.plugin("firewall", "STATUS").conf(&conf).run());
    }
    for outcome in outcomes {
        if chain.drops {
            outcome.error().names(&["inet mine through"]);
        } else {
            outcome.silent();
        }
    }
}

fn legacy_drops(sb: &Sandbox) {
    sb.needs("firewall", "1.1.0");
    let conf = add(sb, Backend::Iptables, "open", "c1", 2);
    netns::sh(&["iptables-legacy", "-P", "FORWARD", "DROP"]);
    call(sb, "CHECK", "c1", &conf).error().names(&["FORWARD", "legacy"]);
    let error = sb.plugin("firewall", "STATUS").conf(&conf).run().error();
    assert_eq!(error.code, 51, "existing containers have limited connectivity: {error:?}");
    error.names(&["FORWARD", "legacy"]);
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
    conf["prevResult"]["ips"].as_array_mut().map(|ips| ips.truncate(1));
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

fn no_tool(sb: &Sandbox) {
    sb.needs("firewall", "1.1.0");
    std::fs::create_dir_all("/run/cni-test/empty").unwrap();
    let conf = conf_of(sb, Backend::Iptables, "open", 2);
    let error = sb.plugin("firewall", "STATUS").env("PATH", "/run/cni-test/empty").conf(&conf).run().error();
    assert_eq!(error.code, 50, "{error:?}");
    error.names(&["iptables"]);
    let conf = conf_of(sb, Backend::Nftables, "open", 2);
    sb.plugin("firewall", "STATUS").env("PATH", "/run/cni-test/empty").conf(&conf).run().silent();
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
