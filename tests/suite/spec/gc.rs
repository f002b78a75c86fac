//! SPEC.md section 2 "GC".

use std::fs;

use cni_tests::rules;
use serde_json::{Value, json};

use super::requirement::{ALL, INTERFACE, Requirement, Section, VETH};
use super::subject::{Subject, ipam};

/// GC, which came with 1.1.0.
pub(super) fn requirements() -> Vec<Requirement> {
    let gc = Section("2 GC");
    let all = vec![
        gc.should(
            "should_remove_what_is_stale",
            "reservations and rules of attachments that aren't listed go, those of the others stay",
            &["bridge", "ptp", "host-local", "portmap", "firewall"],
            stale,
        ),
        gc.should("should_succeed", "nothing to do is no error", &ALL, |s| {
            s.unattached("GC", &s.chain(), &valid(&[])).run().silent();
        }),
        gc.must("must_print_nothing", "no output on success", &ALL, |s| {
            let done = s.attached("c1");
            s.unattached("GC", &done.chain, &valid(&["c1"])).run().silent();
        }),
        gc.must("must_be_forwarded_to_delegates", "the IPAM plugin gets the same GC", &INTERFACE, forwarded),
        gc.should("should_go_on_after_an_error", "what can be removed is, and the error is reported", &VETH, goes_on),
    ];
    all.into_iter().map(|requirement| requirement.since("1.1.0")).collect()
}

/// The key as SPEC.md spells it.
fn valid(ids: &[&str]) -> Value {
    let list: Value = ids.iter().map(|id| json!({"containerID": id, "ifname": "eth0"})).collect();
    json!({"cni.dev/attachments": list})
}

/// What the node's rules and reservations say of an address.
fn about(s: &Subject<'_>, address: &str) -> Vec<String> {
    let mut found = rules::naming(&s.sb.node(), &format!("{address}/"));
    found.extend(rules::naming(&s.sb.node(), &format!("\"{address}\"")));
    found.extend(rules::naming(&s.sb.node(), &format!("{address}:")));
    let reservation = format!("/var/lib/cni/networks/testnet/{address}");
    // Only the IPAM plugin's own GC is asked to remove it.
    if s.plugin == "host-local" && fs::exists(&reservation).unwrap() {
        found.push(reservation);
    }
    found
}

fn stale(s: &Subject<'_>) {
    let keys = if VETH.contains(&s.plugin) { json!({"ipMasq": true}) } else { json!({}) };
    let stays = s.attached_to(s.chain_with(&keys), "c1");
    let goes = s.attached_to(s.chain_with(&keys), "c2");
    let (kept, gone) = (stays.at.ip(false), goes.at.ip(false));
    let before = about(s, &kept);
    assert!(!before.is_empty() && !about(s, &gone).is_empty(), "there is something to remove");
    s.drop_namespace(&goes);
    s.unattached("GC", &stays.chain, &valid(&["c1"])).run().silent();
    assert_eq!(about(s, &gone), Vec::<String>::new());
    assert_eq!(about(s, &kept), before);
}

fn forwarded(s: &Subject<'_>) {
    s.unattached("GC", &s.chain_with_fake("true"), &valid(&["c1"])).run().silent();
    let said: Value =
        serde_json::from_str(&fs::read_to_string("/run/stdin-GC").expect("GC of the IPAM plugin")).unwrap();
    assert_eq!(said["cni.dev/attachments"], valid(&["c1"])["cni.dev/attachments"]);
}

fn goes_on(s: &Subject<'_>) {
    let script = r#"if [ $CNI_COMMAND = GC ]; then echo '{"code":103,"msg":"stuck"}'; exit 1; fi"#;
    s.sb.fake("stuck", &format!("{script}\nexec {}/host-local", s.sb.dir().display()));
    let mut ipam = ipam();
    ipam["type"] = "stuck".into();
    let goes = s.attached_to(s.chain_with(&json!({"ipMasq": true, "ipam": ipam})), "c1");
    let address = goes.at.ip(false);
    s.drop_namespace(&goes);
    s.unattached("GC", &goes.chain, &valid(&[])).run().error().names(&["stuck"]);
    assert_eq!(about(s, &address), Vec::<String>::new());
}
