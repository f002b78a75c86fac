//! The nftables backend against the kernel: each test in network and mount namespaces of its own.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy allows them in tests, and does not see that helpers are"
)]

mod go_rules;
mod index;
mod inside;
mod listing;
mod mac_guard;
mod masquerade;
mod owners;
mod packets;
mod ports;
mod print;
mod shares;
mod skeleton;
mod waitlist;
