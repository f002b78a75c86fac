//! SPEC.md section 2 "STATUS": whether an ADD could be served.

use std::fs;

use serde_json::json;

use super::requirement::{ALL, CAN_BE_UNABLE, INTERFACE, Requirement, Section};
use super::subject::Subject;

/// STATUS, which came with 1.1.0.
pub(super) fn requirements() -> Vec<Requirement> {
    let status = Section("2 STATUS");
    let all = vec![
        status.must("must_succeed_when_ready", "exit 0 when an ADD could be served", &ALL, |s| {
            s.unattached("STATUS", &s.chain(), &json!({})).run().silent();
        }),
        status.must("must_fail_when_unable", "no address left, or no firewall tool: an error", &CAN_BE_UNABLE, |s| {
            drop(unable(s).error());
        }),
        status.should("should_say_50_or_51", "the error's code is 50 or 51", &CAN_BE_UNABLE, |s| {
            assert!(matches!(unable(s).error().code, 50 | 51));
        }),
        status.must("must_not_be_needed", "ADD works without a STATUS before it", &ALL, |s| {
            drop(s.attached("c1"));
        }),
        status.should(
            "should_expect_others_after_an_error",
            "DEL and ADD work after a STATUS that failed",
            &["host-local"],
            after_an_error,
        ),
        status.must("must_ask_delegates", "the IPAM plugin's STATUS is called", &INTERFACE, asks),
        status.should(
            "should_return_the_delegate_s_error",
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

fn asks(s: &Subject<'_>) {
    s.unattached("STATUS", &s.chain_with_fake("true"), &json!({})).run().silent();
    assert_eq!(fs::read_to_string("/run/verbs").unwrap(), "STATUS\n");
}

fn returns(s: &Subject<'_>) {
    let chain = s.chain_with_fake(r#"echo '{"code":51,"msg":"half full"}'; exit 1"#);
    let error = s.unattached("STATUS", &chain, &json!({})).run().error();
    assert_eq!((error.code, error.msg.as_str()), (51, "half full"));
}
