//! What must hold for whatever is on stdin. The fuzz target calls it, and a test with every seed.

#[path = "../../../tests/fuzz/stdin.rs"]
mod stdin;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| stdin::holds(&crate::PLUGIN, data));

#[cfg(test)]
#[test]
fn every_seed_holds() {
    stdin::try_seeds("static", |data| stdin::holds(&crate::PLUGIN, data));
}
