//! portmap with iptables: what the runtime forgets, simultaneous ADDs, what CHECK sees.

use cni_tests::conf::{self, Backend};
use cni_tests::legacy;
use cni_tests::packets::{Outside, Proto, Server, ask, at, silent};
use cni_tests::parallel::at_once;
use cni_tests::{Attachment, Outcome, Sandbox, rules};
use serde_json::{Value, json};

use super::{PORT, mapping, start};
use crate::case::{Case, improved};
use cni_tests::story::Story;

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("del_knows_one_family_only", |sb| one_family(sb, false)),
        improved("legacy::del_knows_one_family_only", |sb| one_family(sb, true)),
        improved("del_without_the_tools_of_a_family", without_tools),
        improved("of_simultaneous_adds_one_wins", |sb| simultaneous(sb, false)),
        improved("legacy::of_simultaneous_adds_one_wins", |sb| simultaneous(sb, true)),
        improved("check_names_what_is_in_the_way", in_the_way),
        improved("a_missing_mark_chain_is_named", |sb| no_mark_chain(sb, false)),
        improved("legacy::a_missing_mark_chain_is_named", |sb| no_mark_chain(sb, true)),
        improved("ten_thousand_ports_in_any_order", any_order),
    ]
}

fn with_variant(sb: &Sandbox, legacy: bool) -> Story<'_> {
    let mut story = start(sb, Backend::Iptables);
    if legacy {
        story.chain = story.chain.with_path(&legacy::path());
    }
    story
}

/// DEL gets less than ADD did: a mapping for IPv4 only, or a result without the IPv6 address.
fn one_family(sb: &Sandbox, legacy: bool) {
    let story = with_variant(sb, legacy);
    let published = |id: &str| {
        let lines = rules::naming(&story.node, id);
        lines.iter().filter(|line| line.contains("dnat name") || line.contains("--to-destination")).count()
    };
    for v6 in [false, true] {
        let [by_mapping, by_result] = ["m", "r"].map(|how| format!("web-{how}-{v6}"));
        let web = story.attach_bare(&by_mapping, &[(PORT, 80, "tcp")]);
        assert!(published(&by_mapping) >= 2, "both families");
        let any = mapping(PORT, 80, "tcp", if v6 { "::" } else { "0.0.0.0" });
        story.chain.del(sb, &web.at.clone().with("portMappings", json!([any])));
        assert_eq!(published(&by_mapping), 0, "{by_mapping}");

        let mut web = story.attach_bare(&by_result, &[(PORT, 80, "tcp")]);
        let ips = web.at.result.as_mut().and_then(|result| result["ips"].as_array_mut()).unwrap();
        ips.retain(|ip| ip["address"].as_str().is_some_and(|address| address.contains(':') == v6));
        story.chain.del(sb, &web.at);
        assert_eq!(published(&by_result), 0, "{by_result}");
    }
}

/// A node that has lost ip6tables, and never had anything of the container's in it.
fn without_tools(sb: &Sandbox) {
    let story = start(sb, Backend::Iptables);
    let host_ip = |ip: &str| json!([mapping(PORT, 80, "tcp", ip)]);
    let web = story.attach_with("web", |at| at.with("portMappings", host_ip("0.0.0.0")));
    let dir = "/run/cni-test/v4";
    std::fs::create_dir_all(dir).unwrap();
    for tool in ["iptables", "iptables-save", "iptables-restore"] {
        std::os::unix::fs::symlink(format!("/usr/sbin/{tool}"), format!("{dir}/{tool}")).unwrap();
    }
    let v4_only = story.chain.clone().with_path(dir);
    let both = web.at.clone().with("portMappings", host_ip(""));
    let portmap = conf::portmap(Backend::Iptables);
    v4_only.call(sb, "DEL", &portmap, &both, both.result.as_ref()).run().silent();
    assert!(silent(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, PORT)));

    let dual = story.attach_with("dual", |at| at.with("portMappings", host_ip("")));
    // The rules of iptables-nft are found and removed over netlink.
    v4_only.call(sb, "DEL", &portmap, &dual.at, dual.at.result.as_ref()).run().silent();
    assert!(rules::naming(&story.node, "\"dual\"").is_empty());
    assert!(silent(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V6, PORT)));
    story.chain.del(sb, &dual.at);
}

/// Both ask for the port of both families at the same moment: one gets it, and in both.
fn simultaneous(sb: &Sandbox, legacy: bool) {
    let story = with_variant(sb, legacy);
    // Bridge and addresses are there: only portmap is in question.
    let two = ["one", "two"].map(|id| story.attach_bare(id, &[]));
    let asked = two.each_ref().map(|container| container.at.clone().publish(&[(PORT, 80, "tcp")]));
    let portmap = conf::portmap(Backend::Iptables);
    for round in 0..10 {
        let call = |verb: &str, at: &Attachment| story.chain.call(sb, verb, &portmap, at, at.result.as_ref()).run();
        let outcomes = at_once(2, |n| call("ADD", &asked[n]));
        let won: Vec<bool> = outcomes.iter().map(Outcome::ok).collect();
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "round {round}: {outcomes:?}");
        let winner = won.iter().position(|won| *won).unwrap();
        outcomes[1 - winner].error().names(&["8080", ["one", "two"][winner]]);
        call("CHECK", &asked[winner]).silent();
        asked.iter().for_each(|at| call("DEL", at).silent());
    }
}

fn in_the_way(sb: &Sandbox) {
    let story = start(sb, Backend::Iptables);
    let web = story.attach("web", &[(PORT, 80, "tcp")]);
    let nat = rules::saved(&story.node, "iptables-save", "nat");
    let own = nat.lines().find(|line| line.contains("--to-destination")).and_then(|line| line.split(' ').nth(1));
    for (table, chain) in [
        ("nat", own.unwrap()),
        ("nat", "CNI-HOSTPORT-DNAT"),
        ("nat", "CNI-HOSTPORT-SETMARK"),
        ("nat", "CNI-HOSTPORT-MASQ"),
    ] {
        story.chain.check(sb, &web.at).silent();
        story.node.sh(&["iptables", "-t", table, "-I", chain, "-j", "RETURN"]);
        story.chain.check(sb, &web.at).error().names(&["iptables", table, chain, "RETURN"]);
        story.node.sh(&["iptables", "-t", table, "-D", chain, "-j", "RETURN"]);
    }
    story.chain.check(sb, &web.at).silent();
}

/// kube-proxy makes its chain in some of its modes, and when it has started.
fn no_mark_chain(sb: &Sandbox, legacy: bool) {
    sb.needs("portmap", "1.1.0");
    let story = with_variant(sb, legacy);
    let web = story.attach("web", &[]);
    let portmap =
        json!({"type": "portmap", "externalSetMarkChain": "KUBE-MARK-MASQ", "capabilities": {"portMappings": true}});
    let at = web.at.clone().publish(&[(PORT, 80, "tcp")]);
    let add = || story.chain.call(sb, "ADD", &portmap, &at, at.result.as_ref()).run();
    let status = || {
        let mut call = sb.plugin("portmap", "STATUS").conf(&conf::named("1.1.0", portmap.clone()));
        if legacy {
            call = call.env("PATH", &format!("/run/cni-test/legacy:{}", std::env::var("PATH").unwrap()));
        }
        call.run()
    };
    let before = rules::all(&story.node);
    add().error().names(&["externalSetMarkChain", "KUBE-MARK-MASQ", "remove the key"]);
    let left: Vec<_> = rules::all(&story.node).into_iter().filter(|rule| !before.contains(rule)).collect();
    assert!(!left.iter().any(|rule| rule.contains("CNI-DN")), "{left:?}");
    let error = status().error();
    assert_eq!(error.code, 50);
    error.names(&["externalSetMarkChain", "KUBE-MARK-MASQ"]);
    let tool =
        |v6: bool| format!("/usr/sbin/{}tables{}", if v6 { "ip6" } else { "ip" }, if legacy { "-legacy" } else { "" });
    story.node.sh(&[&tool(false), "-t", "nat", "-N", "KUBE-MARK-MASQ"]);
    status().silent();
    add().error().names(&["ip6tables", "KUBE-MARK-MASQ"]);
    story.node.sh(&[&tool(true), "-t", "nat", "-N", "KUBE-MARK-MASQ"]);
    add().result();
    status().silent();
}

/// In constant packet cost, in whatever order the runtime lists them.
fn any_order(sb: &Sandbox) {
    let story = start(sb, Backend::Iptables);
    let alternating =
        (20_000..25_000).rev().flat_map(|n| ["tcp", "udp"].map(|protocol| mapping(n, n - 10_000, protocol, "")));
    let list: Value = alternating.collect();
    let web = story.attach_with("web", |at| at.with("portMappings", list.clone()));
    for tool in ["iptables-save", "ip6tables-save"] {
        let nat = rules::saved(&story.node, tool, "nat");
        let own = nat.lines().filter(|line| line.starts_with("-A CNI-DN-") || line.contains("--dports")).count();
        assert!(own < 20, "{tool}: {own} rules");
    }
    let _last = Server::start(&web.ns, "last", 14_999);
    for to in [Outside::NODE_V4, Outside::NODE_V6] {
        for proto in [Proto::Tcp, Proto::Udp] {
            assert!(ask(&story.outside.ns, proto, at(to, 24_999)).unwrap().starts_with("last "), "{to} {proto:?}");
        }
    }
    story.chain.check(sb, &web.at).silent();
    story.chain.del(sb, &web.at);
    assert!(rules::naming(&story.node, "id: web").is_empty());
}
