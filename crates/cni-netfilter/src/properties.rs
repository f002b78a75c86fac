//! What must hold for whatever is read of the node's packet rules. The fuzz targets call these, and a test with every seed.
#![allow(clippy::expect_used, clippy::panic, reason = "properties are assertions")]

pub use crate::iptables::saved_table_holds;
pub use crate::nftables::{answers_hold, conditions_hold};

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Tries every seed of a target, and at some forty places of each: cut there, and with another byte there.
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
            let bytes = [0, b' ', b'"', b'\\', b'1', 0xff];
            for (turn, at) in (0..seed.len()).step_by(seed.len() / 40 + 1).enumerate() {
                holds(&seed[..at]);
                let mut changed = seed.clone();
                changed[at] = bytes[turn % bytes.len()];
                holds(&changed);
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
