//! How unit tests try what the fuzzer is held to: every seed of a target, and small changes of each.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;

/// Tries every seed of a target, and a hundred inputs made of each by small changes; the same ones every time.
pub(crate) fn try_seeds(target: &str, holds: impl Fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds").join(target);
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|seed| seed.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{target} has no seeds");
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
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
