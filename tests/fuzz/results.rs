//! Results: `prevResult`, and what a delegate printed.

#![allow(clippy::expect_used, reason = "properties are assertions")]

use cni_plugin::{CniResult, SpecVersion};

/// The first byte chooses the configuration's version, the rest is the result as JSON.
pub(crate) fn holds(data: &[u8]) {
    let [choice, json @ ..] = data else { return };
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(json) else { return };
    let config = SpecVersion::ALL[usize::from(*choice) % SpecVersion::ALL.len()];
    if let Ok(result) = CniResult::from_prev(value.clone(), config) {
        // Written in the version it came in, it is the same again.
        written_and_read(&result, config);
    }
    if let Ok(result) = CniResult::from_delegate(value, config) {
        for version in SpecVersion::ALL {
            written_and_read(&result, *version);
        }
    }
}

/// What a version has no key for is lost when it is first written, and nothing more the second time.
fn written_and_read(result: &CniResult, version: SpecVersion) {
    let Ok(text) = result.to_json(version) else {
        // Only old versions lack words, and only for a result without addresses.
        assert!(version < SpecVersion::V0_3_0 && result.ips.is_empty());
        return;
    };
    let value: serde_json::Value = serde_json::from_slice(&text).expect("a result is JSON");
    assert_eq!(value["cniVersion"], version.as_str());
    let read = CniResult::from_prev(value, version).expect("what is written can be read");
    assert_eq!(read.to_json(version).expect("and written again"), text);
    if version >= SpecVersion::V1_0_0 {
        assert_eq!(read, *result);
    }
}
