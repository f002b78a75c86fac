//! What must hold for whatever a plugin reads from its stdin and environment.
//!
//! Included by each plugin's `properties.rs`, which has a probe: the plugin short of touching the kernel. `target!("NAME", probe)`
//! makes of it a fuzz target (with `--cfg fuzzing`) and a unit test that tries every seed in `tests/fuzz/seeds/NAME`; instead
//! of a probe it takes a function of the input's bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "properties are assertions")]

use std::path::PathBuf;

use cni_plugin::{CniResult, Plugin, SpecVersion, Surroundings, Vars, run};
use serde::de::DeserializeOwned;
use serde_json::Value;

#[cfg(test)]
#[path = "seeds.rs"]
mod seeds;
#[cfg(test)]
pub(crate) use seeds::try_seeds;

macro_rules! target {
    ($name:literal, probe $probe:path) => {
        target!($name, |data: &[u8]| stdin::holds(&$probe, data));
    };
    ($name:literal, $holds:expr) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| ($holds)(data));

        #[cfg(test)]
        #[test]
        fn every_seed_holds() {
            stdin::try_seeds($name, $holds);
        }
    };
}

/// What the probes of all plugins have in common: DEL does nothing, and GC gets owners of its own network only.
#[allow(dead_code, reason = "a plugin without effects is its own probe")]
pub(crate) const fn probe<C>(name: &'static str) -> Plugin<C> {
    Plugin {
        name,
        release: "v0.0.0",
        versions: SpecVersion::ALL,
        add: |request, _, _| Ok(request.prev_result.clone().unwrap_or_default()),
        check: |_, _| Ok(()),
        del: |_, _| Ok(()),
        gc: |request, valid| {
            assert!(valid.iter().all(|owner| owner.network == request.network));
            Ok(())
        },
        status: |_| Ok(()),
    }
}

/// `data` is a line with the verb and `CNI_ARGS`, and then the configuration. Whatever they are, one JSON object goes out, or
/// nothing where the verb has nothing to say; and what ADD accepts, DEL accepts.
pub(crate) fn holds<C: DeserializeOwned>(probe: &Plugin<C>, data: &[u8]) {
    let Some(end) = data.iter().position(|byte| *byte == b'\n') else { return };
    let Ok(first) = std::str::from_utf8(&data[..end]) else { return };
    let (verb, args) = first.split_once(' ').unwrap_or((first, ""));
    let conf = &data[end + 1..];
    let status = one_document(probe, verb, args, conf);
    if verb == "ADD" && status == 0 {
        assert_eq!(one_document(probe, "DEL", args, conf), 0, "ADD accepts it and DEL does not");
    }
}

fn one_document<C: DeserializeOwned>(probe: &Plugin<C>, verb: &str, args: &str, conf: &[u8]) -> u8 {
    let text = |(name, value): (&str, &str)| (name.into(), value.into());
    let vars: Vars = [
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/nonexistent"),
        ("CNI_PATH", "/nonexistent"),
        ("CNI_ARGS", args),
    ]
    .map(text)
    .into();
    let (mut stdin, mut stdout, mut stderr) = (conf, Vec::new(), Vec::new());
    let mut io = Surroundings {
        vars,
        stdin: &mut stdin,
        interactive: false,
        stdout: &mut stdout,
        stderr: &mut stderr,
        own_netns: PathBuf::from("/nonexistent"),
    };
    let status = run(probe, &mut io);
    if status == 0 && !matches!(verb, "ADD" | "VERSION") {
        assert_eq!(stdout, b"", "{verb} has nothing to say");
        return status;
    }
    let document: Value = serde_json::from_slice(&stdout).expect("one JSON object");
    if status != 0 {
        assert!(document["code"].is_u64() && document["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "{document}");
    } else if verb == "ADD" {
        let version = document["cniVersion"].as_str().and_then(SpecVersion::parse).expect("a version that exists");
        CniResult::from_prev(document, version).expect("a result that can be read");
    }
    status
}
