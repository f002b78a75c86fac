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
    let mut removal = Removal::begin(request, &request.config.ipam, Ipam::del);

    // 1. The pair, before its addresses can be given to another container. Of the rules all there are, as the configuration may have
    //    changed since ADD.
    let (owner, addresses) = (&detachment.owner, reported_addresses(request));
    removal.rules_beside_link(
        || Netfilter::new().remove_masquerade(owner, &addresses),
        || pair::delete(detachment, request.prev_result.as_ref()),
    );

    // 2. The addresses.
    removal.finish()
}
