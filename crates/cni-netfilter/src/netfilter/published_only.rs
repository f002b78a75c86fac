//! The closed door. nf_tables closes it whatever the configured backend is: a drop there is final, so it makes no difference to it
//! which tool's rules accept, and a script that replaces iptables' rules does not open it.

use std::net::IpAddr;
use std::rc::Rc;

use cni_plugin::{Difference, NetworkName, Owner, Undo};

use super::{FilterError, Netfilter};
use crate::intent::PublishedOnly;

impl Netfilter {
    /// Lets nothing reach these addresses from elsewhere than their link but replies and published ports. Idempotent; pushes the
    /// removal to `undo`. An address that another owner had becomes this one's.
    pub fn add_published_only(self: &Rc<Self>, wanted: &PublishedOnly, undo: &mut Undo) -> Result<(), FilterError> {
        let (this, taken_back) = (Rc::clone(self), wanted.clone());
        undo.push("the closed door", move || this.remove_published_only(&taken_back.owner, &taken_back.addresses));
        Ok(self.nftables()?.add_published_only(wanted)?)
    }

    /// Fails, naming what is missing, if the kernel can't close doors.
    pub fn can_add_published_only(&self) -> Result<(), FilterError> {
        Ok(self.nftables()?.can_close()?)
    }

    /// What of `wanted` is missing or altered.
    pub fn check_published_only(&self, wanted: &PublishedOnly) -> Result<Vec<Difference>, FilterError> {
        Ok(self.nftables()?.check_published_only(wanted)?)
    }

    /// Of the doors of owners with these keys ([`Owner::key`]): what they share and is missing or altered, and who has none.
    pub fn check_closed_doors(&self, owner_keys: &[String]) -> Result<Vec<Difference>, FilterError> {
        Ok(self.nftables()?.check_closed_doors(owner_keys)?)
    }

    /// Opens the owner's door. Constant time if `hint` are all its addresses, or if it has no door. Idempotent.
    pub fn remove_published_only(&self, owner: &Owner, hint: &[IpAddr]) -> Result<(), FilterError> {
        self.in_nftables(|nft| nft.remove_published_only(owner, hint))
    }

    /// Opens the doors of owners of `network` that are not in `valid`.
    pub fn retain_published_only(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), FilterError> {
        self.in_nftables(|nft| nft.retain_published_only(network, valid))
    }
}
