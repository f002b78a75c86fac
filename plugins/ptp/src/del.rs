//! DEL: removes what the owner has, also without the namespace, the previous result or a complete configuration.

use cni_attach::pair;
use cni_attach::removal::{Removal, reported_addresses};
use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Detachment, Ipam, Lock, Request};

use crate::config::Config;

/// Detaches the container. Every step is tried, except the last one if the link could not be removed; returns the first failure.
pub fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    // What a killed ADD has left at work must not be done after this.
    let _alone = Lock::if_possible(Lock::of_attachment(&detachment.owner))?;
    let filter = Netfilter::new();
    let mut removal = Removal::begin(request, &request.config.ipam, Ipam::del);

    // 1. Rules first: the kernel's grace period for them passes while the link goes. All there are, as the configuration may
    //    have changed since ADD.
    let masquerade = filter.remove_masquerade(&detachment.owner, &reported_addresses(request));

    // 2. The pair, before its addresses can be given to another container.
    removal.link(pair::delete(detachment, request.prev_result.as_ref()));
    removal.step(masquerade.finish());

    // 3. The addresses.
    removal.finish()
}
