//! GC: withdraws what attachments of this network publish that the runtime no longer knows.

use cni_net::{Netlink, addresses_everywhere};
use cni_netfilter::{Flush, Netfilter};
use cni_plugin::{CniError, Owner, Request};

use crate::config::Config;

/// Collects from both backends, and what the Go plugin left.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let filter = Netfilter::new();
    let withdrawn = filter.retain_ports(&request.network, valid)?;
    if let Err(error) = filter.forget_flows(&withdrawn, Flush::Ours) {
        eprintln!("flows to containers that are gone may continue: {error}");
    }
    remove_go_ports(&filter, valid)
}

/// The Go plugin's nftables rules name the container and no network, so those of a container that this network doesn't
/// know may be another network's. That one is alive as long as its address is anywhere on the node; without that,
/// they lead nowhere and are nobody's.
fn remove_go_ports(filter: &Netfilter, valid: &[Owner]) -> Result<(), CniError> {
    let mut ports = filter.go_ports()?;
    ports.retain(|ports| valid.iter().all(|owner| owner.container_id.as_str() != ports.container));
    if ports.is_empty() {
        return Ok(());
    }
    // After the rules were read: an address is there before the ports that lead to it.
    let alive = addresses_everywhere(&Netlink::open()?)?;
    ports.retain(|ports| !alive.contains(&ports.address));
    Ok(filter.remove_go_ports(&ports)?)
}
