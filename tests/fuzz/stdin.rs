//! What must hold for whatever a plugin reads from its stdin and environment, and how seeds are tried without the fuzzer.
//!
//! Included by each plugin's `properties.rs`, which says what the plugin does with a configuration short of touching the kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "properties are assertions")]

use std::path::PathBuf;

use cni_plugin::{CniResult, Plugin, SpecVersion, Surroundings, Vars, run};
use serde::de::DeserializeOwned;
use serde_json::Value;

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

/// Tries every seed of a target, and a hundred inputs made of each by small changes; the same ones every time.
#[cfg(test)]
pub(crate) fn try_seeds(target: &str, holds: impl Fn(&[u8])) {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|seed| seed.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{target} has no seeds");
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let mut state = 0x9E37_79B9_u64;
    let mut below = |end: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % end.max(1)
    };
    for (path, seed) in paths.iter().zip(&seeds) {
        // The harness shows the last one with a failure.
        eprintln!("{}", path.display());
        holds(seed);
        for _ in 0..100 {
            let changed = change(seed, &seeds, &mut below);
            eprintln!("{}", changed.escape_ascii());
            holds(&changed);
        }
    }
}

/// One to three changes: a byte, a piece away, a piece twice, a piece of another seed, or a number out of range.
#[cfg(test)]
fn change(seed: &[u8], seeds: &[Vec<u8>], below: &mut impl FnMut(usize) -> usize) -> Vec<u8> {
    const WORDS: [&str; 12] =
        ["-1", "0", "4294967296", "1e400", "null", "[]", "{}", "\"\"", "true", "::", "255.255.255.255/33", "\\ud800"];
    let mut data = seed.to_vec();
    for _ in 0..=below(3) {
        let at = below(data.len());
        let end = (at + below(12)).min(data.len());
        let other = &seeds[below(seeds.len())];
        let from = below(other.len());
        let piece = match below(5) {
            0 => vec![u8::try_from(below(256)).unwrap()],
            1 => Vec::new(),
            2 => [&data[at..end], &data[at..end]].concat(),
            3 => other[from..(from + below(40)).min(other.len())].to_vec(),
            _ => WORDS[below(WORDS.len())].as_bytes().to_vec(),
        };
        data.splice(at..end, piece);
    }
    data
}
