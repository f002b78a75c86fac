#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cni_netfilter::properties::answers_hold(data));
