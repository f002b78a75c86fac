//! The nftables backend against the kernel: each test in network and mount namespaces of its own.

mod inside;
mod packets;
mod rules;
