//! GC: removes what belongs to attachments of this network that the runtime no longer knows.

use cni_attach::removal::Removal;
use cni_attach::{made_vlan, shim, single};
use cni_net::Netlink;
use cni_plugin::{CniError, Ipam, Lock, Owner, Request};

use crate::config::Config;

/// Removes it. Every part is tried, but for IPAM's where a link could not be removed, and the first failure is reported.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let mut removal = Removal::begin(request, &request.config.ipam, Ipam::gc);
    removal.step(Lock::settle_orphans(&request.network));
    let host = Netlink::open()?;
    removal.step(shim::retain(&host, &request.network, valid));
    removal.link(single::retain(&request.network, valid));
    removal.step(made_vlan::retain(&host, &request.network, valid));
    removal.finish()
}
