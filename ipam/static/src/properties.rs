//! Properties that must hold for any input on stdin. The fuzz target calls them, and a test with every seed.

#[macro_use]
#[path = "../../../tests/fuzz/stdin.rs"]
mod stdin;

target!("static", probe crate::PLUGIN);
