//! The guard of 127.0.0.0/8. It belongs to the node: it has no owner, is never removed, and no failure takes it back.
//!
//! It is made with nf_tables where the kernel has them, whatever the configured backend is, because that starts no process and
//! is no part of the rules that a script for iptables replaces; else with iptables.

use cni_plugin::Difference;

use super::{FilterError, Netfilter};
use crate::iptables::Iptables;
use crate::nftables::Nftables;

impl Netfilter {
    /// Drops packets from or to 127.0.0.0/8 that arrive by another interface than `lo`. Idempotent.
    pub fn add_localnet_guard(&self) -> Result<(), FilterError> {
        match self.nftables().and_then(Nftables::add_localnet_guard) {
            Err(error) if error.is_absent() => Ok(Iptables::find()?.add_localnet_guard()?),
            outcome => Ok(outcome?),
        }
    }

    /// What of [`Netfilter::add_localnet_guard`] is missing or altered, or dormant.
    pub fn check_localnet_guard(&self) -> Result<Vec<Difference>, FilterError> {
        match self.nftables().and_then(Nftables::check_localnet_guard) {
            Err(error) if error.is_absent() => Ok(Iptables::find()?.check_localnet_guard()?),
            outcome => Ok(outcome?),
        }
    }

    /// For STATUS, where `route_localnet` is on: writes to stderr what of the guard is missing.
    pub fn warn_of_missing_localnet_guard(&self) -> Result<(), FilterError> {
        let missing: Vec<String> = self.check_localnet_guard()?.iter().map(ToString::to_string).collect();
        if !missing.is_empty() {
            eprintln!(
                "containers can reach this node's 127.0.0.1 until the next ADD, DEL or GC, because the guard of \
                 127.0.0.0/8 was removed: {}",
                missing.join("; ")
            );
        }
        Ok(())
    }
}
