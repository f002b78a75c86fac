//! The nftables backend against the kernel: each test in network and mount namespaces of its own.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy allows them in tests, and does not see that helpers are"
)]

mod inside;
mod kernel;
mod owners;
mod packets;
mod print;
mod races;
mod rules;
