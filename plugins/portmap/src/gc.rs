//! GC: withdraws the ports of attachments of this network that the runtime no longer knows.

use cni_net::{Netlink, addresses_in_all_namespaces, localnet};
use cni_netfilter::Netfilter;
use cni_netfilter::conntrack::{self, Flush};
use cni_plugin::{CniError, IfName, Lock, Owner, Request};

use crate::config::Config;

/// Removes the ports of attachments that are not in `valid` in both backends, and the Go plugin's ports of containers that no
/// longer exist. Idempotent.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let settled = Lock::settle_orphans(&request.network);
    let filter = Netfilter::new();
    let links = localnet::permitted_links();
    localnet::keep_guarded(links.iter().map(IfName::as_str), || filter.add_localnet_guard())?;
    let closed = filter.retain_open_ports(&request.network, valid);
    let withdrawn = filter.retain_ports(&request.network, valid)?;
    if let Err(error) = conntrack::forget_flows(&withdrawn, Flush::Ours) {
        eprintln!("connections to removed containers may continue: {error}");
    }
    filter.retain_go_ports(valid, || addresses_in_all_namespaces(&Netlink::open()?))?;
    closed?;
    Ok(settled?)
}
