//! What must hold for whatever is read of the node's packet rules. The fuzz targets call these, and a test with every seed.
#![allow(clippy::expect_used, clippy::panic, reason = "properties are assertions")]

pub use crate::iptables::saved_table_holds;
pub use crate::nftables::{answers_hold, conditions_hold};

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Tries every seed of a target, with each of its bytes changed, and cut after each of them.
    fn try_seeds(target: &str, holds: impl Fn(&[u8])) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds").join(target);
        let mut seeds: Vec<_> = std::fs::read_dir(dir).unwrap().map(|seed| seed.unwrap().path()).collect();
        seeds.sort();
        assert!(!seeds.is_empty(), "{target} has no seeds");
        for path in seeds {
            // The harness shows the last one with a failure.
            eprintln!("{}", path.display());
            let seed = std::fs::read(path).unwrap();
            holds(&seed);
            for at in 0..seed.len() {
                holds(&seed[..at]);
                for byte in [0, b' ', b'"', b'\\', seed[at].wrapping_add(1), 0xff] {
                    let mut changed = seed.clone();
                    changed[at] = byte;
                    holds(&changed);
                }
            }
        }
    }

    #[test]
    fn every_seed_holds() {
        try_seeds("iptables_save", super::saved_table_holds);
        try_seeds("nft_objects", super::answers_hold);
        try_seeds("conditions", super::conditions_hold);
    }
}
