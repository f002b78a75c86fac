//! GC: removes what belongs to attachments of this network that the runtime no longer knows.

use cni_net::{Netlink, pair};
use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Lock, Owner, Request};

use crate::config::Config;
use crate::{host, settings};

/// Collects. Every part is tried, and the first failure is reported.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let filter = Netfilter::new();
    let mut steps = vec![Lock::settle_orphans(&request.network).map_err(CniError::from)];
    steps.push(filter.retain_masquerade(&request.network, valid).map_err(CniError::from));
    steps.push(filter.retain_mac_guards(&request.network, valid).map_err(CniError::from));
    steps.push(pair::retain(&request.network, valid).map_err(CniError::from));
    // A name that isn't valid is no link's.
    if request.config.remove_empty_bridge
        && let Ok(name) = settings::bridge_name(&request.config)
    {
        steps.push(host::remove_if_empty(&Netlink::open()?, &name).map_err(CniError::from));
    }
    let ipam = &request.config.ipam.plugin_type;
    if !ipam.is_empty() {
        steps.push(request.ipam(ipam).gc());
    }
    steps.into_iter().collect()
}
