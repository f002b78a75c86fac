//! The check of source MAC addresses. nftables does it whatever the configured backend is, as for the Go plugin: iptables sees
//! no frames.

use std::rc::Rc;

use cni_plugin::{Difference, NetworkName, Owner, Undo};

use super::{FilterError, Netfilter};
use crate::intent::{MacGuard, MacGuardHint};

impl Netfilter {
    /// Drops frames from the guard's port with another source address. Idempotent; pushes the removal to `undo`. The port must
    /// exist: what an earlier link of its name left is replaced.
    pub fn add_mac_guard(self: &Rc<Self>, guard: &MacGuard, undo: &mut Undo) -> Result<(), FilterError> {
        let (this, owner) = (Rc::clone(self), guard.owner.clone());
        let hint = MacGuardHint { port: Some(guard.port.clone()), mac: Some(guard.mac) };
        undo.push("the spoof check", move || this.remove_mac_guard(&owner, &hint));
        Ok(self.nftables()?.add_mac_guard(guard)?)
    }

    /// Fails, naming what is missing, if the kernel can't check source addresses.
    pub fn can_add_mac_guard(&self) -> Result<(), FilterError> {
        Ok(self.nftables()?.can_guard_macs()?)
    }

    /// What of `guard` is missing or altered.
    pub fn check_mac_guard(&self, guard: &MacGuard) -> Result<Vec<Difference>, FilterError> {
        Ok(self.nftables()?.check_mac_guard(guard)?)
    }

    /// Removes the owner's check, the Go plugin's for the same owner included. Constant time with a complete hint, or
    /// if there is no check; else all elements are searched. Idempotent.
    pub fn remove_mac_guard(&self, owner: &Owner, hint: &MacGuardHint) -> Result<(), FilterError> {
        self.in_nftables(|nft| nft.remove_mac_guard(owner, hint))
    }

    /// Removes the checks of owners of `network` that are not in `valid`, and the Go plugin's for ports that don't exist.
    pub fn retain_mac_guard(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), FilterError> {
        self.in_nftables(|nft| nft.retain_mac_guard(network, valid))
    }
}
