//! SPEC.md sections 2 and 5 "VERSION".

use cni_tests::Call;
use serde_json::json;

use super::requirement::{ALL, Requirement, Section};
use super::subject::Subject;

/// VERSION, which came with 0.2.0.
pub(super) fn requirements() -> Vec<Requirement> {
    let version = Section("2 and 5 VERSION");
    vec![
        version
            .should(
                "should_output_the_versions",
                "one JSON object with `cniVersion` and `supportedVersions`",
                &ALL,
                versions,
            )
            .since("0.2.0"),
        version.must("must_need_no_other_variable", "`CNI_COMMAND` is all that it needs", &ALL, bare).since("1.0.0"),
        version.must("must_echo_the_version", "`cniVersion` is the one of the question", &ALL, echo).since("1.0.0"),
        version
            .must("must_list_what_it_supports", "ADD works at the versions of the list", &ALL, |s| {
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
