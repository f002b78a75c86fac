//! The iptables backend against the kernel, in both variants of the tools, each test in network and mount namespaces of its
//! own.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy allows them in tests, and does not see that helpers are"
)]

mod check;
mod edges;
mod go;
mod inside;
mod print;
mod rules;
mod traffic;
mod vxlan_peers;
