//! GC: removes what belongs to attachments of this network that the runtime no longer knows.

use cni_net::pair;
use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Lock, Owner, Request};

use crate::config::Config;

/// Removes it. Every part is tried, but for IPAM's where a link could not be removed, and the first failure is reported.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let filter = Netfilter::new();
    let settled = Lock::settle_orphans(&request.network).map_err(CniError::from);
    let masquerade = filter.retain_masquerade(&request.network, valid).map_err(CniError::from);
    let pairs = pair::retain(&request.network, valid).map_err(CniError::from);
    let are_gone = pairs.is_ok();
    let mut steps = vec![settled, masquerade, pairs];
    let ipam = &request.config.ipam.plugin_type;
    // Not while a link that should have gone may still have its addresses.
    if !ipam.is_empty() && are_gone {
        steps.push(request.ipam(ipam).gc());
    }
    steps.into_iter().collect()
}
