//! GC: removes what belongs to attachments of this network that the runtime no longer knows.

use cni_attach::pair;
use cni_attach::removal::Removal;
use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Ipam, Lock, Owner, Request};

use crate::config::Config;

/// Removes their links and rules. Every step is tried, except IPAM's GC if a link could not be removed; returns the first failure.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let mut removal = Removal::begin(request, &request.config.ipam, Ipam::gc);
    removal.step(Lock::settle_orphans(&request.network));
    removal.step(Netfilter::new().retain_masquerade(&request.network, valid));
    removal.link(pair::retain(&request.network, valid));
    removal.finish()
}
