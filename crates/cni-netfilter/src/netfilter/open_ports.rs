//! Ports that are published without translation. nf_tables opens them whatever the configured backend is, as it closes the others
//! ([`Netfilter::add_published_only`]).

use std::rc::Rc;

use cni_plugin::{Difference, NetworkName, Owner, Undo};

use super::{FilterError, Netfilter};
use crate::intent::PortForwards;

impl Netfilter {
    /// Opens the containers' ports, intents of one owner; the ports and addresses of the node in them mean nothing. Idempotent; pushes
    /// the removal to `undo`.
    pub fn add_open_ports(self: &Rc<Self>, wanted: &[PortForwards], undo: &mut Undo) -> Result<(), FilterError> {
        let Some(PortForwards { owner, .. }) = wanted.first() else { return Ok(()) };
        let (this, taken_back, hints) = (Rc::clone(self), owner.clone(), wanted.to_vec());
        undo.push("the open ports", move || this.remove_open_ports(&taken_back, &hints));
        Ok(self.nftables()?.add_open_ports(wanted)?)
    }

    /// Fails, naming what is missing, if the kernel can't open ports.
    pub fn can_add_open_ports(&self) -> Result<(), FilterError> {
        Ok(self.nftables()?.can_open_ports()?)
    }

    /// What of `wanted` is missing or altered.
    pub fn check_open_ports(&self, wanted: &[PortForwards]) -> Result<Vec<Difference>, FilterError> {
        Ok(self.nftables()?.check_open_ports(wanted)?)
    }

    /// Closes the owner's ports. Constant time if `hints` are all that it has, or if it has none. Idempotent.
    pub fn remove_open_ports(&self, owner: &Owner, hints: &[PortForwards]) -> Result<(), FilterError> {
        self.in_nftables(|nft| nft.remove_open_ports(owner, hints))
    }

    /// Closes the ports of owners of `network` that are not in `valid`.
    pub fn retain_open_ports(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), FilterError> {
        self.in_nftables(|nft| nft.retain_open_ports(network, valid))
    }
}
