//! The fuzz targets' properties with every seed, and with random bytes: what can be had without the fuzzer.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::properties::{config, index, last_reserved, reservation, result};

type Property = fn(&[u8]);

const TARGETS: &[(&str, Property)] = &[
    ("config", config::holds),
    ("index", index::holds),
    ("last_reserved", last_reserved::holds),
    ("reservation", reservation::holds),
    ("result", result::holds),
];

/// Also what the fuzzer has found once: its inputs are kept as seeds.
#[test]
fn every_seed_holds() {
    for (target, holds) in TARGETS {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
        let mut seeds: Vec<_> = fs::read_dir(dir).unwrap().map(|seed| seed.unwrap().path()).collect();
        seeds.sort();
        assert!(!seeds.is_empty(), "{target}");
        for seed in seeds {
            // The last one that is told is the one that doesn't hold; the harness shows it with the failure.
            eprintln!("{}", seed.display());
            holds(&fs::read(&seed).unwrap());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bytes_of_any_kind_hold(data in vec(any::<u8>(), 0..80), text in ".{0,40}") {
        for (_, holds) in TARGETS {
            holds(&data);
            holds(text.as_bytes());
        }
    }
}
