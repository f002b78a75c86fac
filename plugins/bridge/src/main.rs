//! bridge
mod config;
mod plan;
mod settings;
fn main() {}
