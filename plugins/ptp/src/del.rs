//! DEL: removes what the owner has, whatever is left of the configuration, the namespace and the previous result.

use cni_net::pair;
use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Detachment, Lock, Request};
use ipnetwork::IpNetwork;

use crate::config::Config;

/// Detaches the container. Every part is tried, but for the last where the link could not be removed, and the first failure
/// is reported.
pub fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    // Nothing that a killed ADD has left at work may come after this.
    let _alone = Lock::if_possible(Lock::of_attachment(&detachment.owner))?;
    let filter = Netfilter::new();
    let mut steps = Vec::new();

    // 1. Rules first: the kernel's grace period for them passes while the link goes.
    let told = request.prev_result.iter().flat_map(|result| &result.ips);
    let hints: Vec<IpNetwork> = told.map(|ip| ip.address).collect();
    //    The configuration may have changed since ADD, so it is not asked what there is.
    let masquerade = filter.start_remove_masquerade(&detachment.owner, &hints);

    // 2. The pair, before its addresses can be given to somebody else.
    let pair = pair::delete(detachment, request.prev_result.as_ref()).map_err(CniError::from);
    let is_gone = pair.is_ok();
    steps.push(pair);
    steps.push(masquerade.finish().map_err(CniError::from));

    // 3. The addresses, unless the container may still use them: IPAM would give them to another one. They stay reserved
    //    until a later DEL or GC has removed the link.
    let ipam = &request.config.ipam.plugin_type;
    if !ipam.is_empty() && is_gone {
        steps.push(request.ipam(ipam).del());
    }
    steps.into_iter().collect()
}
