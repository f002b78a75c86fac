//! Which names are found, by whom, and how they are answered.

use cni_tests::{Sandbox, conf};
use serde_json::json;

use super::*;
use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("a_container_finds_another", finds),
        improved("every_form_of_a_name", forms),
        improved("aliases_of_a_map_and_of_a_list", aliases),
        improved("both_families", families),
        improved("known_names_without_such_a_record", no_data),
        improved("unknown_names_of_the_domain", unknown),
        improved("addresses_have_names", reverse),
        improved("answers_are_authoritative_shuffled_and_not_kept", shuffled),
        improved("two_networks_and_a_container_on_both", two_networks),
        improved("a_network_without_the_domain", no_domain),
        improved("a_stranger_is_refused", strangers),
        improved("right_after_add_a_thousand_times", thousand),
        improved("gone_after_del", gone),
        improved("many_addresses_over_tcp", truncated),
        improved("a_program_finds_a_name", by_program),
    ]
}

fn finds(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let (web, client) = (run(sb, &net, "web"), run(sb, &net, "client"));
    assert_eq!(found(&client.ns, "web"), [web.at.ip(false)]);
    assert_eq!(ask_tcp(&client.ns, conf::V4_GATEWAY, "WEB", A).addresses.len(), 1);
    let dns = &client.at.result.as_ref().unwrap()["dns"];
    assert_eq!(*dns, json!({"nameservers": [conf::V4_GATEWAY, conf::V6_GATEWAY], "search": ["dns.test"]}));
}

fn forms(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let ns = sb.container("x");
    let mut at = named("0123456789abcdef0123", &ns);
    at.args = Some("IgnoreUnknown=1;K8S_POD_NAME=Web.Front".to_owned());
    net.add(sb, &mut at);
    for name in ["web.front", "WEB.FRONT", "web.front.net", "web.front.dns.test", "0123456789ab", "0123456789ab.net"] {
        assert_eq!(found(&ns, name), [at.ip(false)], "{name}");
    }
    for name in ["front", "web", "0123456789abcdef0123", "web.front.net.dns.test"] {
        assert!(ask(&ns, conf::V4_GATEWAY, name, A).addresses.is_empty(), "{name}");
    }
}

fn aliases(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    for (id, aliases) in [("c1", json!({"net": ["db", "db-1"], "other": ["no"]})), ("c2", json!(["db", "db-2"]))] {
        let ns = sb.container(id);
        let mut at = named(id, &ns).with("aliases", aliases);
        net.add(sb, &mut at);
    }
    let client = run(sb, &net, "client");
    assert_eq!(found(&client.ns, "db").len(), 2);
    assert_eq!((found(&client.ns, "db-1").len(), found(&client.ns, "db-2.dns.test").len()), (1, 1));
    assert!(found(&client.ns, "no.dns.test").is_empty());
}

fn families(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let (web, client) = (run(sb, &net, "web"), run(sb, &net, "client"));
    for server in [conf::V4_GATEWAY, conf::V6_GATEWAY] {
        for (kind, v6) in [(A, false), (AAAA, true)] {
            let address: IpAddr = web.at.ip(v6).parse().unwrap();
            assert_eq!(ask(&client.ns, server, "web", kind).addresses, [address]);
            assert_eq!(ask_tcp(&client.ns, server, "web", kind).addresses, [address]);
        }
    }
}

fn no_data(sb: &Sandbox) {
    let (_end, net) = (Reaper, network(sb, "net4", 91, true, &json!({})));
    let web = run(sb, &net, "web");
    for kind in [AAAA, MX, SRV, 65, 16] {
        let answer = ask(&web.ns, "10.91.0.1", "web", kind);
        assert_eq!((answer.code, answer.records, answer.is_authoritative), (SUCCESS, 0, true), "{kind}");
    }
    assert_eq!(ask(&web.ns, "10.91.0.1", "dns.test", A).code, SUCCESS);
}

fn unknown(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({"upstream": []})));
    let web = run(sb, &net, "web");
    let answer = ask(&web.ns, conf::V4_GATEWAY, "nobody.dns.test", A);
    assert_eq!((answer.code, answer.records, answer.is_authoritative), (NO_SUCH_NAME, 0, true));
}

fn reverse(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let (web, client) = (run(sb, &net, "web"), run(sb, &net, "client"));
    for v6 in [false, true] {
        let shown = client.ns.sh(&["dig", "+short", "-x", &web.at.ip(v6), "@10.77.0.1"]);
        assert_eq!(shown.trim(), "web.dns.test.");
    }
    let nobody = ask(&client.ns, conf::V4_GATEWAY, "99.0.77.10.in-addr.arpa", PTR);
    assert_eq!(nobody.code, NO_SUCH_NAME);
}

fn shuffled(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    for id in ["c1", "c2", "c3"] {
        let ns = sb.container(id);
        net.add(sb, &mut named(id, &ns).with("aliases", json!(["all"])));
    }
    let client = run(sb, &net, "client");
    let answer = ask(&client.ns, conf::V4_GATEWAY, "all", A);
    assert!(answer.is_authoritative && answer.ttls == [0, 0, 0] && answer.addresses.len() == 3, "{answer:?}");
    let first = || client.ns.sh(&["dig", "+short", "all", "@10.77.0.1"]).lines().next().unwrap().to_owned();
    let start = first();
    assert!((0..64).any(|_| first() != start), "64 answers begin with {start}");
}

fn two_networks(sb: &Sandbox) {
    let _end = Reaper;
    let [one, two] = [("one", 91), ("two", 92)].map(|(name, n)| network(sb, name, n, true, &json!({})));
    let (a, b, both) = (run(sb, &one, "a"), run(sb, &two, "b"), run(sb, &one, "both"));
    let mut second = named("both", &both.ns).on("eth1");
    two.add(sb, &mut second);
    let of = |ns: &Netns, server: &str, name: &str| {
        ask(ns, server, name, A).addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for server in ["10.91.0.1", "10.92.0.1"] {
        assert_eq!(of(&both.ns, server, "a"), [a.at.ip(false)]);
        assert_eq!(of(&both.ns, server, "b.dns.test"), [b.at.ip(false)]);
        assert_eq!(of(&both.ns, server, "b.two"), [b.at.ip(false)]);
        assert_eq!(of(&both.ns, server, "both").len(), 2);
    }
    assert_eq!(of(&a.ns, "10.91.0.1", "both"), [both.at.ip(false)]);
    assert_eq!(ask(&a.ns, "10.91.0.1", "b.dns.test", A).code, NO_SUCH_NAME);
    // The end of one attachment leaves the other.
    two.del(sb, &second);
    assert_eq!(ask(&both.ns, "10.91.0.1", "b.dns.test", A).code, NO_SUCH_NAME);
    assert_eq!(of(&both.ns, "10.91.0.1", "a"), [a.at.ip(false)]);
}

fn no_domain(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({"domainName": ""})));
    let web = run(sb, &net, "web");
    assert_eq!((found(&web.ns, "web").len(), found(&web.ns, "web.net").len()), (1, 1));
    assert!(web.at.result.as_ref().unwrap()["dns"]["search"].is_null());
}

/// A container that asks where it doesn't belong, and one that asks with an address that nobody gave it.
fn strangers(sb: &Sandbox) {
    let _end = Reaper;
    let [one, two] = [("one", 91), ("two", 92)].map(|(name, n)| network(sb, name, n, true, &json!({})));
    let (a, _b) = (run(sb, &one, "a"), run(sb, &two, "b"));
    let patience = Duration::from_secs(20);
    let across = try_ask(&a.ns, SocketAddr::new("10.92.0.1".parse().unwrap(), 10053), "b", A, patience).unwrap();
    assert_eq!((across.code, across.records), (REFUSED, 0));
    a.ns.sh(&["ip", "addr", "flush", "dev", "eth0"]);
    a.ns.sh(&["ip", "addr", "add", "10.91.0.77/24", "dev", "eth0"]);
    let other = try_ask(&a.ns, SocketAddr::new("10.91.0.1".parse().unwrap(), 10053), "a", A, patience).unwrap();
    assert_eq!((other.code, other.records), (REFUSED, 0));
}

/// One container keeps its address, and gets another name each time: ADD is idempotent.
fn thousand(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let client = run(sb, &net, "client");
    let web = run(sb, &net, "web");
    let own = net.plugins()[1].clone();
    for n in 0..1000 {
        let name = format!("web-{n}");
        let at = Attachment { args: Some(format!("IgnoreUnknown=1;K8S_POD_NAME={name}")), ..web.at.clone() };
        net.call(sb, "ADD", &own, &at, web.at.result.as_ref()).run().document();
        assert_eq!(found(&client.ns, &name), [web.at.ip(false)], "{name}");
        assert!(n == 0 || found(&client.ns, &format!("web-{}.dns.test", n - 1)).is_empty(), "before {name}");
    }
}

fn gone(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let client = run(sb, &net, "client");
    for _ in 0..20 {
        let web = run(sb, &net, "web");
        assert_eq!(found(&client.ns, "web.dns.test").len(), 1);
        net.del(sb, &web.at);
        assert_eq!(ask(&client.ns, conf::V4_GATEWAY, "web.dns.test", A).code, NO_SUCH_NAME);
        web.ns.delete();
    }
}

fn truncated(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    for n in 0..40 {
        let (id, ns) = (format!("c{n}"), sb.container(&format!("c{n}")));
        net.add(sb, &mut named(&id, &ns).with("aliases", json!(["all"])));
    }
    let client = run(sb, &net, "client");
    let answer = ask(&client.ns, conf::V4_GATEWAY, "all", A);
    assert!(answer.is_truncated && answer.records == 0, "{answer:?}");
    assert_eq!(ask_tcp(&client.ns, conf::V4_GATEWAY, "all", A).addresses.len(), 40);
    assert_eq!(client.ns.sh(&["dig", "+short", "all", "@10.77.0.1"]).lines().count(), 40);
}

/// The C library's resolver, with what a runtime would write of the result.
fn by_program(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let (_web, client) = (run(sb, &net, "web"), run(sb, &net, "client"));
    fs::write("/run/resolv.conf", "nameserver 10.77.0.1\nsearch dns.test\n").unwrap();
    for name in ["web", "web.net", "web.dns.test"] {
        let script = format!("mount --bind /run/resolv.conf /etc/resolv.conf && ping -4 -n -q -c 1 -w 4 {name}");
        client.ns.sh(&["unshare", "--mount", "sh", "-c", &script]);
    }
}
