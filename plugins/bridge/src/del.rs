//! DEL: removes what the owner has, whatever is left of the configuration, the namespace and the previous result.

use cni_net::{Link, NetNs, NetNsError, Netlink};
use cni_netfilter::{MacGuardHint, Netfilter};
use cni_plugin::{CniError, Detachment, Ipam, Owner, Request};
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::plan;

/// Detaches the container. Every part is tried, and the first failure is reported.
pub fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    let owner = &detachment.owner;
    let filter = Netfilter::new();
    let socket = Netlink::open()?;
    let mut steps = Vec::new();

    // 1. Rules first: the kernel's grace period for them passes while the link goes.
    let pair = find_pair(&socket, request, detachment);
    let hints = addresses_told(request);
    if request.config.ip_masq {
        steps.push(filter.remove_masquerade(owner, &hints).map_err(CniError::from));
    }
    // The configuration may have changed since ADD; without it, only what a lookup finds.
    let hint = guard_hint(request, owner, pair.as_ref().ok());
    steps.push(filter.remove_mac_guard(owner, &hint, request.config.mac_spoof_check).map_err(CniError::from));

    // 2. The pair, before its addresses can be given to somebody else.
    steps.push(pair.and_then(|pair| pair.delete(&socket)));

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

/// What is left of the pair.
enum Pair {
    /// The host's end.
    Host(Link),
    /// The container's end, as the Go plugin's pairs carry no owner.
    Container(Netlink, u32),
    /// Nothing.
    Gone,
}

impl Pair {
    /// Either end takes the other one along.
    fn delete(self, socket: &Netlink) -> Result<(), CniError> {
        match self {
            Self::Host(link) => Ok(socket.delete_link(link.index).map(drop)?),
            Self::Container(inside, index) => Ok(inside.delete_link(index).map(drop)?),
            Self::Gone => Ok(()),
        }
    }
}

/// The host's end by its owner; else the container's end by its name. Neither is fine.
fn find_pair(socket: &Netlink, request: &Request<Config>, detachment: &Detachment) -> Result<Pair, CniError> {
    if let Some(index) = host_end(socket, &detachment.owner)? {
        return Ok(socket.link_by_index(index)?.map_or(Pair::Gone, Pair::Host));
    }
    let Some(path) = &detachment.netns else { return Ok(Pair::Gone) };
    let namespace = match NetNs::open(path) {
        Ok(namespace) => namespace,
        Err(NetNsError::NotFound { .. }) => return Ok(Pair::Gone),
        Err(error) => return Err(error.into()),
    };
    let inside = Netlink::open_in(&namespace)?;
    match inside.link_by_name(detachment.owner.ifname.as_str())? {
        Some(link) if may_be_ours(socket, request, &link)? => Ok(Pair::Container(inside, link.index)),
        _ => Ok(Pair::Gone),
    }
}

/// The namespace may be another container's by now, with an interface of the same name: that one's host end carries
/// another owner, or has another name than the result says.
fn may_be_ours(socket: &Netlink, request: &Request<Config>, link: &Link) -> Result<bool, CniError> {
    let peer = link.peer_index.map(|index| socket.link_by_index(index)).transpose()?.flatten();
    let Some(peer) = peer.filter(|peer| peer.kind.as_deref() == Some("veth") && peer.peer_index == Some(link.index))
    else {
        return Ok(true);
    };
    let told = request.prev_result.as_ref().map(|result| &result.interfaces);
    let foreign = |name: &String| name.starts_with(plan::altname_prefix());
    let named = told.is_none_or(|told| told.is_empty() || told.iter().any(|interface| interface.name == peer.name));
    Ok(named && !peer.altnames.iter().any(foreign))
}

/// The port by its link, or by the result where that is gone; the address by the result, as a later plugin may have
/// changed the link's.
fn guard_hint(request: &Request<Config>, owner: &Owner, pair: Option<&Pair>) -> MacGuardHint {
    let told = request.prev_result.as_ref().map(|result| result.interfaces.as_slice()).unwrap_or_default();
    let container = told.iter().find(|found| found.name == owner.ifname.as_str() && !found.sandbox.is_empty());
    let told_port = told.get(1).filter(|found| found.sandbox.is_empty()).map(|found| found.name.as_str());
    let port = match pair {
        Some(Pair::Host(link)) => Some(link.name.as_str()),
        _ => told_port,
    };
    MacGuardHint {
        port: port.and_then(|name| name.parse().ok()),
        mac: container.and_then(|container| container.mac.parse().ok()),
    }
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
