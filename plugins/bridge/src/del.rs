//! DEL: removes what the owner has, whatever is left of the configuration, the namespace and the previous result.

use cni_net::{NetNs, NetNsError, Netlink};
use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Detachment, Ipam, Owner, Request};
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::plan;

/// Detaches the container. Every part is tried, and the first failure is reported.
pub fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    let owner = &detachment.owner;
    let filter = Netfilter::new();
    let mut steps = Vec::new();

    // 1. Rules first: the kernel's grace period for them passes while the link goes.
    let hints = addresses_told(request);
    if request.config.ip_masq {
        steps.push(filter.remove_masquerade(owner, &hints).map_err(CniError::from));
    }

    // 2. The pair, before its addresses can be given to somebody else.
    steps.push(delete_pair(detachment));

    // 3. The addresses.
    let ipam = &request.config.ipam.plugin_type;
    if !ipam.is_empty() {
        steps.push(Ipam::new(&request.delegates, ipam, request.version).del());
    }
    steps.into_iter().collect()
}

fn addresses_told(request: &Request<Config>) -> Vec<IpNetwork> {
    request.prev_result.iter().flat_map(|result| &result.ips).map(|ip| ip.address).collect()
}

/// Deletes the host's end, found by its owner; else the container's end, found by its name, as the Go plugin's pairs
/// carry no owner. Nothing to delete is fine.
fn delete_pair(detachment: &Detachment) -> Result<(), CniError> {
    let socket = Netlink::open()?;
    if let Some(index) = host_end(&socket, &detachment.owner)? {
        socket.delete_link(index)?;
        return Ok(());
    }
    let Some(path) = &detachment.netns else { return Ok(()) };
    let namespace = match NetNs::open(path) {
        Ok(namespace) => namespace,
        Err(NetNsError::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let inside = Netlink::open_in(&namespace)?;
    if let Some(link) = inside.link_by_name(detachment.owner.ifname.as_str())? {
        inside.delete_link(link.index)?;
    }
    Ok(())
}

/// By the alternative name; or by the name derived from the owner, if its maker was killed before it could write one.
pub fn host_end(socket: &Netlink, owner: &Owner) -> Result<Option<u32>, CniError> {
    if let Some(link) = socket.link_by_altname(&plan::host_altname(owner))? {
        return Ok(Some(link.index));
    }
    let Some(name) = plan::host_names(owner).next() else { return Ok(None) };
    let link = socket.link_by_name(name.as_str())?;
    Ok(link.filter(|link| link.kind.as_deref() == Some("veth") && link.altnames.is_empty()).map(|link| link.index))
}
