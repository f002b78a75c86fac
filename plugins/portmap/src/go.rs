//! What the Go plugin published by nftables, from its version 1.6 on. Its rules name the container and no network, so that
//! nobody can tell whether an attachment that they belong to is still valid. But their container is alive as long as its
//! address is anywhere on the node; without that they lead nowhere.

use std::collections::BTreeSet;

use cni_net::{Netlink, addresses_everywhere};
use cni_netfilter::{GoHeld, GoPorts, Netfilter, PortForwards};
use cni_plugin::{CniError, Owner};

/// GC: removes the rules of containers that the runtime doesn't list, and that are gone.
pub fn collect(filter: &Netfilter, valid: &[Owner]) -> Result<(), CniError> {
    let mut ports = filter.go_ports()?;
    ports.retain(|ports| valid.iter().all(|owner| owner.container_id.as_str() != ports.container));
    let gone = gone(ports)?;
    if gone.is_empty() { Ok(()) } else { Ok(filter.remove_go_ports(&gone)?) }
}

/// ADD: removes the rules that have one of these ports and whose container is gone, and says so on stderr. Fails if one is
/// alive. Without the Go plugin's tables this is a question a family.
pub fn evict(filter: &Netfilter, wanted: &[PortForwards]) -> Result<(), CniError> {
    let held = filter.go_holders(wanted)?;
    if held.is_empty() {
        return Ok(());
    }
    let gone = gone(held.iter().map(|held| held.ports.clone()).collect())?;
    if let Some(GoHeld { port, ports }) = held.iter().find(|held| !gone.contains(&held.ports)) {
        let (container, address) = (&ports.container, ports.address);
        return Err(CniError::plugin(format!(
            "{port} is held by container {container} ({address}), by a rule that the Go plugin made in nftables: detach \
             that first, or ask for another"
        )));
    }
    for GoPorts { container, address } in &gone {
        eprintln!("a port was still published for container {container}, whose address {address} is gone: withdrawn");
    }
    Ok(filter.remove_go_ports(&gone)?)
}

/// Those of the containers that are gone. To be asked after the rules were read: an address is there before the ports that
/// lead to it.
fn gone(mut ports: BTreeSet<GoPorts>) -> Result<BTreeSet<GoPorts>, CniError> {
    if !ports.is_empty() {
        let alive = addresses_everywhere(&Netlink::open()?)?;
        ports.retain(|ports| !alive.contains(&ports.address));
    }
    Ok(ports)
}
