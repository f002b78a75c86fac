//! vxlan: hosts that come and go, by the file that lists them.

use std::sync::atomic::{AtomicBool, Ordering};

use cni_tests::Sandbox;
use cni_tests::kernel::array;
use cni_tests::packets::ping;
use cni_tests::parallel::at_once;
use serde_json::json;

use super::{host, hosts, list, write};
use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("one_dies_and_comes_back_with_another_address", comes_back),
        improved("file_is_replaced_during_adds", replaced),
        improved("change_without_an_add_is_named", without_add),
        improved("one_that_leaves_is_forgotten", leaves),
        improved("none_at_first", none_at_first),
        improved("of_the_other_family_are_named", other_family),
    ]
}

fn comes_back(sb: &Sandbox) {
    let mut hosts = hosts(sb, 3);
    let chains: Vec<_> = hosts.iter().map(|host| host.chain(sb, &json!({}))).collect();
    let containers: Vec<_> =
        hosts.iter().zip(&chains).map(|(host, chain)| host.attach(sb, chain, &format!("c{}", host.number))).collect();
    assert!(ping(&containers[0].ns, &containers[1].at.ip(false)));
    // The host is gone with all that it had, as after a crash, and its address with it. It has the same number and the same state
    // on disk when it comes back.
    let old = containers[1].at.ip(false);
    hosts[1].ns.delete();
    containers[1].ns.delete();
    let again = host(sb, &cni_tests::Netns::existing("switch"), 20, 20);
    hosts[1] = super::Host { number: 2, ns: again.ns };
    write("192.0.2.1\n192.0.2.20\n192.0.2.3\n");
    let back = hosts[1].attach(sb, &chains[1], "c2-again");
    assert_ne!(back.at.ip(false), old, "the reservation of the old container is on disk");
    // The others learn of it by their next ADD.
    for (n, id) in [(0, "c1-next"), (2, "c3-next")] {
        hosts[n].check_names(sb, &chains[n], &containers[n], &["192.0.2.20", "192.0.2.2 "]);
        hosts[n].attach(sb, &chains[n], id);
        hosts[n].check(sb, &chains[n], &containers[n]);
        let learnt = hosts[n].ns.sh(&["bridge", "fdb", "show", "dev", "vxlan42"]);
        assert!(!learnt.contains("dst 192.0.2.2 "), "what was learnt from the old address goes: {learnt}");
        assert!(ping(&containers[n].ns, &back.at.ip(false)) && ping(&back.ns, &containers[n].at.ip(true)));
    }
    assert_eq!(hosts[0].guarded("peers4"), ["4789 . 192.0.2.20", "4789 . 192.0.2.3"]);
}

/// Whole files are read, and the last one counts.
fn replaced(sb: &Sandbox) {
    let hosts = hosts(sb, 1);
    let chain = hosts[0].chain(sb, &json!({}));
    let done = AtomicBool::new(false);
    let file = |last: usize| (2..=last).map(|n| format!("192.0.2.{n}\n")).collect::<String>();
    at_once(5, |n| {
        if n == 0 {
            let mut last = 2;
            while !done.load(Ordering::Relaxed) {
                last = if last > 100 { 2 } else { last + 7 };
                write(&file(last));
            }
            return;
        }
        for round in 0..5 {
            hosts[0].attach(sb, &chain, &format!("c{n}-{round}"));
        }
        done.store(n == 1, Ordering::Relaxed);
    });
    done.store(true, Ordering::Relaxed);
    write(&file(4));
    let last = hosts[0].attach(sb, &chain, "last");
    assert_eq!(hosts[0].flooded_to(), ["192.0.2.2", "192.0.2.3", "192.0.2.4"]);
    assert_eq!(hosts[0].guarded("peers4").len(), 3);
    hosts[0].check(sb, &chain, &last);
}

fn without_add(sb: &Sandbox) {
    let hosts = hosts(sb, 2);
    let chain = hosts[0].chain(sb, &json!({}));
    let container = hosts[0].attach(sb, &chain, "c1");
    write("192.0.2.1\n192.0.2.3\n");
    let names = ["forwarding entry 00:00:00:00:00:00 dst 192.0.2.3 of vxlan42", "dst 192.0.2.2", "/run/peers"];
    hosts[0].check_names(sb, &chain, &container, &names);
    assert_eq!(hosts[0].flooded_to(), ["192.0.2.2"], "CHECK changes nothing");
}

fn leaves(sb: &Sandbox) {
    let hosts = hosts(sb, 3);
    let chains: Vec<_> = hosts.iter().map(|host| host.chain(sb, &json!({}))).collect();
    let containers: Vec<_> =
        hosts.iter().zip(&chains).map(|(host, chain)| host.attach(sb, chain, &format!("c{}", host.number))).collect();
    assert!(ping(&containers[0].ns, &containers[2].at.ip(false)));
    list(&hosts[..2], false);
    hosts[0].attach(sb, &chains[0], "next");
    assert_eq!(hosts[0].flooded_to(), ["192.0.2.2"]);
    assert!(ping(&containers[0].ns, &containers[1].at.ip(false)));
    let reached = containers[2].ns.holds(&["ping", "-n", "-q", "-c", "1", "-w", "2", &containers[0].at.ip(false)]);
    assert!(!reached, "its packets are a stranger's now");
}

/// A network's first host, whose file lists nobody, or itself.
fn none_at_first(sb: &Sandbox) {
    let hosts = hosts(sb, 2);
    let chains: Vec<_> = hosts.iter().map(|host| host.chain(sb, &json!({}))).collect();
    write("# nobody yet\n");
    let one = hosts[0].attach(sb, &chains[0], "c1");
    assert!(hosts[0].flooded_to().is_empty() && hosts[0].guarded("peers4").is_empty());
    assert_eq!(hosts[0].guarded("ports"), ["udp . 4789"], "nobody may send");
    hosts[0].check(sb, &chains[0], &one);
    list(&hosts, false);
    let two = hosts[1].attach(sb, &chains[1], "c2");
    hosts[0].attach(sb, &chains[0], "c3");
    assert!(ping(&one.ns, &two.at.ip(false)));
}

/// A device speaks one family; which one, the peers say.
fn other_family(sb: &Sandbox) {
    let hosts = hosts(sb, 2);
    let chain = hosts[0].chain(sb, &json!({}));
    let container = hosts[0].attach(sb, &chain, "c1");
    list(&hosts, true);
    hosts[0].check_names(sb, &chain, &container, &["local address of vxlan42", "2001:db8::1"]);
    let refused = hosts[0].try_attach(sb, &chain, "c2").err().unwrap();
    refused.error().names(&["vni: 42", "local address of vxlan42", "2001:db8::1", "detach"]);
    assert_eq!(
        array(&hosts[0].ns.sh(&["bridge", "-j", "fdb", "show", "dev", "vxlan42"]))
            .iter()
            .filter(|e| e["dst"] == "192.0.2.2")
            .count(),
        1
    );
    hosts[0].del(sb, &chain, &container);
    let container = hosts[0].attach(sb, &chain, "c3");
    assert_eq!(hosts[0].flooded_to(), ["2001:db8::2"]);
    hosts[0].check(sb, &chain, &container);
}
