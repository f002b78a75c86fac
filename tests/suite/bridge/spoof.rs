//! bridge: `macspoofchk`, with frames: those that a container sends with another source address are dropped.

use cni_tests::packets::ping;
use cni_tests::{Attachment, Chain, Netns, Sandbox, Snapshot, rules};
use serde_json::{Value, json};

use super::alone;
use crate::case::{Case, common, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let del =
        |name: &str, end: fn(&Sandbox, &Chain, &Attachment)| improved(name, move |sb: &Sandbox| nothing_left(sb, end));
    vec![
        common("stops_another_address", stops),
        common("off_lets_it_pass", off),
        common("leaves_the_neighbour_alone", neighbour),
        del("del", |sb, chain, at| chain.del(sb, at)),
        del("del_with_empty_netns", |sb, chain, at| chain.del(sb, &at.clone().nowhere())),
        del("del_after_the_netns_vanished", |sb, chain, at| {
            sb.node().sh(&["ip", "netns", "del", &at.id]);
            std::thread::sleep(std::time::Duration::from_millis(300));
            chain.del(sb, at);
        }),
        del("del_without_result", |sb, chain, at| chain.del(sb, &Attachment { result: None, ..at.clone() })),
        del("del_after_the_key_was_removed", |sb, _, at| alone(sb, |_| ()).del(sb, at)),
        del("gc", |sb, chain, _| chain.gc(sb, &[("stays", "eth0")]).silent()),
        improved("check_names_what_is_missing", check),
        improved("one_rule_for_all", constant),
        improved("follows_the_configured_mac", given_mac),
    ]
}

fn guarded(conf: &mut Value) {
    conf["macspoofchk"] = true.into();
}

fn attach(sb: &Sandbox, id: &str, edit: impl Fn(&mut Value)) -> (Netns, Attachment) {
    let ns = sb.container(id);
    let mut at = Attachment::new(id, &ns);
    alone(sb, edit).add(sb, &mut at);
    (ns, at)
}

/// Changes the interface's address; its routes go with it when it is down, so it stays up.
fn take_another_address(ns: &Netns) {
    ns.sh(&["ip", "link", "set", "eth0", "address", "0a:00:00:00:00:66"]);
}

fn reaches(ns: &Netns, to: &str) -> bool {
    ns.holds(&["ping", "-n", "-q", "-c", "1", "-w", "1", to])
}

fn stops(sb: &Sandbox) {
    let (ns, _) = attach(sb, "c1", guarded);
    assert!(ping(&ns, "10.77.0.1") && ping(&ns, "fd00:77::1"), "with its own address");
    take_another_address(&ns);
    assert!(!reaches(&ns, "10.77.0.1") && !reaches(&ns, "fd00:77::1"), "with another one");
}

fn off(sb: &Sandbox) {
    let (ns, _) = attach(sb, "c1", |_| ());
    take_another_address(&ns);
    assert!(ping(&ns, "10.77.0.1"));
}

fn neighbour(sb: &Sandbox) {
    let (_one, _) = attach(sb, "c1", guarded);
    let (two, _) = attach(sb, "c2", |_| ());
    take_another_address(&two);
    assert!(ping(&two, "10.77.0.1"), "another container of the network without the check");
}

fn nothing_left(sb: &Sandbox, end: fn(&Sandbox, &Chain, &Attachment)) {
    let chain = alone(sb, guarded);
    let (_stays, _) = attach(sb, "stays", guarded);
    let before = Snapshot::of(&[&sb.node()]);
    let (_goes, at) = attach(sb, "goes", guarded);
    end(sb, &chain, &at);
    Snapshot::of(&[&sb.node()]).same_but(&before, &["last_reserved_ip"]);
}

fn check(sb: &Sandbox) {
    let chain = alone(sb, guarded);
    let (_ns, at) = attach(sb, "c1", guarded);
    chain.check(sb, &at).silent();
    let port = at.result.as_ref().unwrap()["interfaces"][1]["name"].as_str().unwrap();
    let gone = rules::delete_one(&sb.node(), port);
    let error = chain.check(sb, &at).error();
    assert!(error.text().contains("spoof") && error.text().contains(port), "after {gone}: {error:?}");
}

/// A rule for each container would cost every frame of all of them.
fn constant(sb: &Sandbox) {
    let count = || rules::all(&sb.node()).iter().filter(|line| line.starts_with("nft rule")).count();
    let _first = attach(sb, "c0", guarded);
    let rules_for_one = count();
    let _others: Vec<_> = (1..5).map(|n| attach(sb, &format!("c{n}"), guarded)).collect();
    assert_eq!(count(), rules_for_one);
}

fn given_mac(sb: &Sandbox) {
    let (ns, _) = attach(sb, "c1", |conf| {
        guarded(conf);
        conf["args"] = json!({"cni": {"mac": "0a:00:00:00:00:01"}});
    });
    assert!(ping(&ns, "10.77.0.1"));
    take_another_address(&ns);
    assert!(!reaches(&ns, "10.77.0.1"));
}
