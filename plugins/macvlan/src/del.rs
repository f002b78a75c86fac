//! DEL: removes what the owner has, also without the namespace, the previous result or a complete configuration.

use cni_attach::removal::Removal;
use cni_attach::{made_vlan, shim, single};
use cni_net::Netlink;
use cni_plugin::{CniError, Detachment, Ipam, Lock, Request};

use crate::KIND;
use crate::config::Config;

/// Detaches the container. Every part is tried, but for the addresses where the link could not be removed, and the first
/// failure is reported.
pub fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    // What a killed ADD has left at work must not be done after this.
    let _alone = Lock::if_possible(Lock::of_attachment(&detachment.owner))?;
    let mut removal = Removal::begin(request, &request.config.ipam, Ipam::del);
    let host = Netlink::open()?;
    // Also without hostShim and createMaster: the configuration may have changed since ADD.
    removal.step(shim::remove(&host, &detachment.owner));
    removal.link(single::delete(detachment, KIND, request.prev_result.as_ref()));
    removal.step(made_vlan::release(&host, &detachment.owner));
    removal.finish()
}
