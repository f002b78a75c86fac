//! GC: removes what belongs to attachments of this network that the runtime no longer knows.

use cni_net::{Netlink, localnet, pair};
use cni_netfilter::Netfilter;
use cni_plugin::{CniError, IfName, Lock, Owner, Request};

use crate::config::Config;
use crate::{host, settings};

/// Removes it. Every part is tried, but for IPAM's where a link could not be removed, and the first failure is reported.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let filter = Netfilter::new();
    let mut steps = vec![Lock::settle_orphans(&request.network).map_err(CniError::from)];
    steps.push(filter.retain_masquerade(&request.network, valid).map_err(CniError::from));
    steps.push(filter.retain_mac_guards(&request.network, valid).map_err(CniError::from));
    let pairs = pair::retain(&request.network, valid).map_err(CniError::from);
    let are_gone = pairs.is_ok();
    steps.push(pairs);
    // A name that isn't valid is no link's.
    let bridge = settings::bridge_name(&request.config).ok();
    steps.push(
        localnet::keep_guarded(bridge.as_ref().map(IfName::as_str), || filter.guard_localnet()).map_err(CniError::from),
    );
    if let Some(name) = bridge.filter(|_| request.config.remove_empty_bridge) {
        steps.push(host::remove_if_empty(&Netlink::open()?, &name).map_err(CniError::from));
    }
    let ipam = &request.config.ipam.plugin_type;
    // Not while a link that should have gone may still have its addresses.
    if !ipam.is_empty() && are_gone {
        steps.push(request.ipam(ipam).gc());
    }
    steps.into_iter().collect()
}
