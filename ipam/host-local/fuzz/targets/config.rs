#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| host_local_fuzz::properties::config::holds(data));
