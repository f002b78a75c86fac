//! GC: removes what belongs to attachments of this network that the runtime no longer knows.

use cni_attach::pair;
use cni_attach::removal::Removal;
use cni_net::{Netlink, localnet};
use cni_netfilter::Netfilter;
use cni_plugin::{CniError, IfName, Ipam, Lock, Owner, Request};

use crate::config::Config;
use crate::{bridge, settings};

/// Removes their links and rules. Every step is tried, except IPAM's GC if a link could not be removed; returns the first failure.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let filter = Netfilter::new();
    let mut removal = Removal::begin(request, &request.config.ipam, Ipam::gc);
    removal.step(Lock::settle_orphans(&request.network));
    removal.step(filter.retain_masquerade(&request.network, valid));
    removal.step(filter.retain_mac_guard(&request.network, valid));
    removal.link(pair::retain(&request.network, valid));
    // A name that isn't valid is no link's.
    let name = settings::bridge_name(&request.config).ok();
    removal.step(localnet::keep_guarded(name.as_ref().map(IfName::as_str), || filter.add_localnet_guard()));
    if let Some(name) = name.filter(|_| request.config.remove_empty_bridge) {
        removal.step(bridge::remove_if_empty(&Netlink::open()?, &name));
    }
    removal.finish()
}
