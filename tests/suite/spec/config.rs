//! SPEC.md section 1: the configuration.

use serde_json::json;

use super::requirement::{ALL, INTERFACE, Requirement, Section, VETH};
use super::subject::Subject;

/// All of this subject.
pub(super) fn requirements() -> Vec<Requirement> {
    let conf = Section("1 Configuration");
    vec![
        conf.must("must_refuse_a_type_that_is_a_path", "`ipam.type` with `/` is an error", &INTERFACE, type_is_a_path)
            .since("1.0.0"),
        conf.should("should_ignore_args_not_understood", "unknown keys in `args` do no harm", &ALL, unknown_args)
            .since("0.4.0")
            .until("0.4.0"),
        conf.should("should_respect_dns", "the configuration's `dns` reaches the result", &INTERFACE, dns)
            .since("1.0.0"),
        conf.should("should_respect_ip_masq", "`ipMasq` makes rules for the container's address", &VETH, masquerade)
            .since("1.0.0"),
    ]
}

fn type_is_a_path(s: &Subject<'_>) {
    let chain = s.chain_with(&json!({"ipam": {"type": "../cni/host-local", "subnet": "10.77.0.0/24"}}));
    assert!(!s.ready(&chain, &mut s.container("c1")).run().ok());
}

fn unknown_args(s: &Subject<'_>) {
    s.attached_to(s.chain_with(&json!({"args": {"com.example": {"a": [1, {"b": null}]}, "x": 7}})), "c1");
}

fn dns(s: &Subject<'_>) {
    let dns = json!({"nameservers": ["10.77.0.53"], "domain": "example.org", "search": ["example.org"], "options": ["ndots:2"]});
    let done = s.attached_to(s.chain_with(&json!({"dns": dns})), "c1");
    assert_eq!(done.at.result.unwrap()["dns"], dns);
}

fn masquerade(s: &Subject<'_>) {
    let done = s.attached_to(s.chain_with(&json!({"ipMasq": true})), "c1");
    assert!(!cni_tests::rules::naming(&s.sb.node(), &done.at.ip(false)).is_empty());
}
