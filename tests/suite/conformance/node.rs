//! SPEC.md section 2 "STATUS", "VERSION" and "GC": the verbs that aren't about one attachment.

use std::fs;

use cni_tests::{Call, Chain, rules};
use serde_json::{Value, json};

use super::requirement::{ALL, INTERFACE, Requirement, Section};
use super::subject::{Subject, ipam};

/// Plugins that can know that they can't serve an ADD.
const CAN_BE_UNABLE: [&str; 5] = ["bridge", "ptp", "host-local", "portmap", "firewall"];

/// STATUS, which came with 1.1.0.
pub(super) fn status() -> Vec<Requirement> {
    let status = Section("2 STATUS");
    let all = vec![
        status.must("status::must_succeed_when_ready", "exit 0 when an ADD could be served", &ALL, |s| {
            s.unattached("STATUS", &s.chain(), &json!({})).run().silent();
        }),
        status.must(
            "status::must_fail_when_unable",
            "no address left, or no firewall tool: an error",
            &CAN_BE_UNABLE,
            |s| drop(unable(s).error()),
        ),
        status.should("status::should_say_50_or_51", "the error's code is 50 or 51", &CAN_BE_UNABLE, |s| {
            assert!(matches!(unable(s).error().code, 50 | 51));
        }),
        status.must("status::must_not_be_needed", "ADD works without a STATUS before it", &ALL, |s| {
            drop(s.attached("c1"));
        }),
        status.should(
            "status::should_expect_others_after_an_error",
            "DEL and ADD work after a STATUS that failed",
            &["host-local"],
            after_an_error,
        ),
        status.must("status::must_ask_delegates", "the IPAM plugin's STATUS is called", &INTERFACE, asks),
        status.should(
            "status::should_return_the_delegate_s_error",
            "the IPAM plugin's error is the answer",
            &INTERFACE,
            returns,
        ),
    ];
    all.into_iter().map(|requirement| requirement.since("1.1.0")).collect()
}

/// A subject that can't serve an ADD, asked for its STATUS.
fn unable(s: &Subject<'_>) -> cni_tests::Outcome {
    let small = json!({"ipam": {"type": "host-local", "subnet": "10.77.0.0/30"}});
    match s.plugin {
        "portmap" | "firewall" => {
            let chain = s.chain_with(&json!({"backend": "iptables"}));
            s.unattached("STATUS", &chain, &json!({})).env("PATH", "/run/nowhere").run()
        }
        "host-local" => {
            let chain = s.chain_with(&small);
            s.attached_to(chain.clone(), "c1");
            s.unattached("STATUS", &chain, &json!({})).run()
        }
        _ => {
            let chain = s.chain_with(&json!({"ipam": {"type": "nobody"}}));
            s.unattached("STATUS", &chain, &json!({})).run()
        }
    }
}

fn after_an_error(s: &Subject<'_>) {
    let chain = s.chain_with(&json!({"ipam": {"type": "host-local", "subnet": "10.77.0.0/30"}}));
    let done = s.attached_to(chain, "c1");
    s.unattached("STATUS", &done.chain, &json!({})).run().error();
    s.del(&done).silent();
    s.attached_to(done.chain, "c2");
}

/// A network whose IPAM plugin notes its verb and then does as the script says.
fn with_fake(s: &Subject<'_>, script: &str) -> Chain {
    s.sb.fake("fake", &format!("cat >/run/stdin-$CNI_COMMAND; echo $CNI_COMMAND >>/run/verbs\n{script}"));
    s.chain_with(&json!({"ipam": {"type": "fake"}}))
}

fn asks(s: &Subject<'_>) {
    s.unattached("STATUS", &with_fake(s, "true"), &json!({})).run().silent();
    assert_eq!(fs::read_to_string("/run/verbs").unwrap(), "STATUS\n");
}

fn returns(s: &Subject<'_>) {
    let chain = with_fake(s, r#"echo '{"code":51,"msg":"half full"}'; exit 1"#);
    let error = s.unattached("STATUS", &chain, &json!({})).run().error();
    assert_eq!((error.code, error.msg.as_str()), (51, "half full"));
}

/// VERSION, which came with 0.2.0.
pub(super) fn version() -> Vec<Requirement> {
    let version = Section("2 and 5 VERSION");
    vec![
        version
            .should(
                "version::should_output_the_versions",
                "one JSON object with `cniVersion` and `supportedVersions`",
                &ALL,
                versions,
            )
            .since("0.2.0"),
        version
            .must("version::must_need_no_other_variable", "`CNI_COMMAND` is all that it needs", &ALL, bare)
            .since("1.0.0"),
        version
            .must("version::must_echo_the_version", "`cniVersion` is the one of the question", &ALL, echo)
            .since("1.0.0"),
        version
            .must("version::must_list_what_it_supports", "ADD works at the versions of the list", &ALL, |s| {
                drop(s.attached("c1"));
            })
            .since("0.2.0"),
    ]
}

fn asked(s: &Subject<'_>) -> Call {
    s.sb.plugin(s.plugin, "VERSION").conf(&json!({"cniVersion": s.version}))
}

fn versions(s: &Subject<'_>) {
    let said = asked(s).run().result();
    assert!(said["cniVersion"].is_string(), "{said}");
    assert!(said["supportedVersions"].as_array().is_some_and(|list| list.iter().any(|v| v == s.version)), "{said}");
}

fn bare(s: &Subject<'_>) {
    asked(s).without("CNI_PATH").run().result();
}

fn echo(s: &Subject<'_>) {
    assert_eq!(asked(s).run().result()["cniVersion"], s.version);
}

/// GC, which came with 1.1.0.
pub(super) fn gc() -> Vec<Requirement> {
    let gc = Section("2 GC");
    let all = vec![
        gc.should(
            "gc::should_remove_what_is_stale",
            "reservations and rules of attachments that aren't listed go, those of the others stay",
            &CAN_BE_UNABLE,
            stale,
        ),
        gc.should("gc::should_succeed", "nothing to do is no error", &ALL, |s| {
            s.unattached("GC", &s.chain(), &valid(&[])).run().silent();
        }),
        gc.must("gc::must_print_nothing", "no output on success", &ALL, |s| {
            let done = s.attached("c1");
            s.unattached("GC", &done.chain, &valid(&["c1"])).run().silent();
        }),
        gc.must("gc::must_be_forwarded_to_delegates", "the IPAM plugin gets the same GC", &INTERFACE, forwarded),
        gc.should(
            "gc::should_go_on_after_an_error",
            "what can be removed is, and the error is reported",
            &INTERFACE,
            goes_on,
        ),
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
    let keys = if INTERFACE.contains(&s.plugin) { json!({"ipMasq": true}) } else { json!({}) };
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
    s.unattached("GC", &with_fake(s, "true"), &valid(&["c1"])).run().silent();
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
