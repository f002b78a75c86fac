//! SPEC.md section 2 "DEL".

use cni_tests::{Attachment, Snapshot};
use serde_json::json;

use super::add::named;
use super::requirement::{ALL, INTERFACE, Requirement, Section, VETH};
use super::subject::{Attached, Subject, ipam};

/// Plugins that keep something on the node, outside of the container's namespace, or whose IPAM plugin does.
const STATE: [&str; 13] = [
    "bridge",
    "ptp",
    "macvlan",
    "ipvlan",
    "vlan",
    "dummy",
    "host-device",
    "tap",
    "host-local",
    "dhcp",
    "portmap",
    "firewall",
    "bandwidth",
];
/// Plugins that change something, on the node or in the container. Not sbr: the interface, which the next DEL deletes, does not
/// get its routes back.
const UNDOING: [&str; 15] = [
    "bridge",
    "ptp",
    "macvlan",
    "ipvlan",
    "vlan",
    "dummy",
    "host-device",
    "tap",
    "host-local",
    "dhcp",
    "portmap",
    "firewall",
    "tuning",
    "bandwidth",
    "vrf",
];

/// All of this subject.
pub(super) fn requirements() -> Vec<Requirement> {
    let del = Section("2 DEL");
    vec![
        del.should(
            "should_undo_what_add_did",
            "interface, rules, reservations and settings are as before ADD",
            &UNDOING,
            undone,
        ),
        del.should(
            "should_succeed_when_the_namespace_is_gone",
            "no error, though the namespace no longer exists",
            &ALL,
            vanished,
        )
        .since("0.3.0"),
        del.should(
            "should_clean_up_when_the_namespace_is_gone",
            "rules and reservations go all the same",
            &STATE,
            cleaned,
        )
        .since("0.3.0"),
        del.should(
            "should_delegate_when_the_namespace_is_gone",
            "the IPAM plugin is called all the same",
            &INTERFACE,
            delegated,
        )
        .since("0.3.0"),
        del.should(
            "should_do_without_netns_and_prev_result",
            "neither is needed to succeed and to remove everything",
            &STATE,
            without_anything,
        )
        .since("0.4.0")
        .until("0.4.0"),
        del.must("must_accept_no_netns", "`CNI_NETNS` is optional", &ALL, no_netns).since("1.0.0"),
        del.should("should_be_idempotent", "a second and a third DEL succeed", &ALL, again)
            .since("0.4.0")
            .until("0.4.0"),
        del.must(
            "must_accept_repetition",
            "a second and a third DEL succeed, and one of what was never added",
            &ALL,
            again,
        )
        .since("1.0.0"),
    ]
}

/// A network that does all that the plugin can do on the node.
fn chain(s: &Subject<'_>) -> cni_tests::Chain {
    s.chain_with(&if VETH.contains(&s.plugin) { json!({"ipMasq": true}) } else { json!({}) })
}

/// The first container brings what all share, and is gone again.
fn warm(s: &Subject<'_>) {
    let first = s.attached_to(chain(s), "c7");
    for plugin in first.chain.plugins().iter().rev() {
        let result = first.at.result.as_ref().filter(|_| s.version >= "0.4.0");
        first.chain.call(s.sb, "DEL", plugin, &first.at, result).run().silent();
    }
}

/// An attachment, and the node before the subject's own ADD.
fn attached_after(s: &Subject<'_>) -> (Attached, Snapshot) {
    warm(s);
    let (chain, mut at) = (chain(s), s.container("c1"));
    let ready = s.ready(&chain, &mut at);
    let before = Snapshot::of(&[&s.sb.node(), &named("c1")]);
    at.result = Some(ready.run().result());
    (Attached { chain, at }, before)
}

fn undone(s: &Subject<'_>) {
    let (done, before) = attached_after(s);
    assert!(s.del(&done).ok());
    // The kernel's rule for all VRFs of a namespace, which it makes with the first one and once only (`vrf_newlink` in
    // drivers/net/vrf.c).
    Snapshot::of(&[&s.sb.node(), &named("c1")]).same_but(&before, &["last_reserved_ip", "[l3mdev-table]"]);
}

fn vanished(s: &Subject<'_>) {
    let done = s.attached_to(chain(s), "c1");
    s.drop_namespace(&done);
    let outcome = s.del(&done);
    assert!(outcome.ok(), "{outcome}");
}

/// Fails if anything about the container is left on the node, but for what `before` had.
fn only_shared_left(s: &Subject<'_>, before: &Snapshot) {
    // What the bridge before a chained plugin made, and the vanished interface, are no part of the question.
    let others = ["link ", "address ", "route ", "sysctl ", "last_reserved_ip", "c1: "];
    Snapshot::of(&[&s.sb.node()]).same_but(before, &others);
}

fn cleaned(s: &Subject<'_>) {
    let (done, before) = attached_after(s);
    s.drop_namespace(&done);
    let outcome = s.del(&done);
    assert!(outcome.ok(), "{outcome}");
    only_shared_left(s, &before);
}

fn without_anything(s: &Subject<'_>) {
    let (mut done, before) = attached_after(s);
    s.drop_namespace(&done);
    done.at.netns.clear();
    done.at.result = None;
    let outcome = s.del(&done);
    assert!(outcome.ok(), "{outcome}");
    only_shared_left(s, &before);
}

fn delegated(s: &Subject<'_>) {
    s.sb.fake("noting", &format!("echo $CNI_COMMAND >>/run/verbs; exec {}/host-local", s.sb.dir().display()));
    let mut ipam = ipam();
    ipam["type"] = "noting".into();
    let done = s.attached_to(s.chain_with(&json!({"ipam": ipam})), "c1");
    s.drop_namespace(&done);
    let outcome = s.del(&done);
    assert!(outcome.ok(), "{outcome}");
    assert_eq!(std::fs::read_to_string("/run/verbs").unwrap(), "ADD\nDEL\n");
}

fn no_netns(s: &Subject<'_>) {
    let done = s.attached_to(chain(s), "c1");
    for call in [
        s.call("DEL", &done.chain, &done.at).without("CNI_NETNS"),
        s.call("DEL", &done.chain, &done.at.clone().nowhere()),
    ] {
        let outcome = call.run();
        assert!(outcome.ok(), "{outcome}");
    }
}

fn again(s: &Subject<'_>) {
    let done = s.attached_to(chain(s), "c1");
    for _ in 0..3 {
        let outcome = s.del(&done);
        assert!(outcome.ok(), "{outcome}");
    }
    let never = Attached { chain: done.chain, at: Attachment::new("c2", &s.sb.container("c2")) };
    let outcome = s.del(&never);
    assert!(outcome.ok(), "{outcome}");
}
