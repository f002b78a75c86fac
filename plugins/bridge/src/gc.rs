//! GC: removes what belongs to attachments of this network that the runtime no longer knows.

use std::collections::HashSet;

use cni_net::Netlink;
use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Ipam, Owner, Request};

use crate::config::Config;
use crate::plan;

/// Collects. Every part is tried, and the first failure is reported.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let filter = Netfilter::new();
    let mut steps = vec![filter.retain_masquerade(&request.network, valid).map_err(CniError::from)];
    steps.push(filter.retain_mac_guards(&request.network, valid).map_err(CniError::from));
    steps.push(delete_pairs(request, valid));
    let ipam = &request.config.ipam.plugin_type;
    if !ipam.is_empty() {
        steps.push(Ipam::new(&request.delegates, ipam, request.version).gc());
    }
    steps.into_iter().collect()
}

/// Links without an owner are left alone: they may be anybody's.
fn delete_pairs(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let of_network = format!("{}{}", plan::altname_prefix(), Owner::network_key(&request.network));
    let keep: HashSet<String> = valid.iter().map(plan::host_altname).collect();
    let socket = Netlink::open()?;
    let mut deleted = Vec::new();
    for link in socket.links()? {
        let stale = |name: &String| name.starts_with(&of_network) && !keep.contains(name);
        if link.altnames.iter().any(stale) {
            deleted.push(socket.delete_link(link.index).map(drop));
        }
    }
    deleted.into_iter().collect::<Result<(), _>>().map_err(CniError::from)
}
