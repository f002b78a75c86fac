//! GC: withdraws what attachments of this network publish that the runtime no longer knows.

use cni_net::localnet;
use cni_netfilter::{Flush, Netfilter};
use cni_plugin::{CniError, IfName, Lock, Owner, Request};

use crate::config::Config;
use crate::go;

/// Collects from both backends, and what the Go plugin left.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let settled = Lock::settle_orphans(&request.network);
    let filter = Netfilter::new();
    let links = localnet::permitted_links();
    localnet::keep_guarded(links.iter().map(IfName::as_str), || filter.guard_localnet())?;
    let withdrawn = filter.retain_ports(&request.network, valid)?;
    if let Err(error) = Netfilter::forget_flows(&withdrawn, Flush::Ours) {
        eprintln!("flows to containers that are gone may continue: {error}");
    }
    go::collect(&filter, valid)?;
    Ok(settled?)
}
