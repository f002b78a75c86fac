//! The node's end of the container's veth pair: what the container receives is sent there, and what it sends is received there.

use cni_attach::pair;
use cni_net::{Link, NetError, NetNs, Netlink};
use cni_plugin::{CniError, CniResult, Detachment, IfName};

/// The node's end of the pair of the interface `inside`.
///
/// # Errors
/// If the interface is no veth, or the other end isn't on the node: then nothing on the node sees its traffic alone.
pub fn end_of(host: &Netlink, inside: &Link) -> Result<Link, CniError> {
    let refused = |why: String| {
        CniError::plugin(format!("container interface {} has no veth peer on the node: {why}", inside.name))
            .details("ingress limits, and egress limits with \"egressDevice\": \"ifb\", need a veth pair")
    };
    if inside.kind.as_deref() != Some("veth") {
        return Err(refused(format!("it is a {}", inside.kind.as_deref().unwrap_or("physical device"))));
    }
    let index = inside.peer_index.unwrap_or_default();
    let found = find(host, inside)?;
    found.ok_or_else(|| refused(format!("the node has no link {index} that is its other end")))
}

fn find(host: &Netlink, inside: &Link) -> Result<Option<Link>, NetError> {
    let Some(index) = inside.peer_index else { return Ok(None) };
    let link = host.link_by_index(index)?;
    Ok(link.filter(|link| link.kind.as_deref() == Some("veth") && link.peer_index == Some(inside.index)))
}

/// The container's interface.
pub fn interface(inside: &Netlink, ifname: &IfName, namespace: &NetNs) -> Result<Link, CniError> {
    inside.link_by_name(ifname.as_str())?.ok_or_else(|| {
        CniError::plugin(format!("failed to get {:?}: it is not in {:?}", ifname.as_str(), namespace.path()))
    })
}

/// The node's end as far as it can be found when the container may be gone: by the owner that the plugin which made it has
/// written on it, by the interface in the namespace, or by its name in the result.
pub fn remaining(
    host: &Netlink,
    detachment: &Detachment,
    result: Option<&CniResult>,
) -> Result<Option<Link>, CniError> {
    if let Some(link) = pair::find(host, &detachment.owner)? {
        return Ok(Some(link));
    }
    if let Some(namespace) = NetNs::open_if_there(detachment.netns.as_deref())? {
        let inside = Netlink::open_in(&namespace)?.link_by_name(detachment.owner.ifname.as_str())?;
        return Ok(inside.map(|inside| find(host, &inside)).transpose()?.flatten());
    }
    for interface in
        result.iter().flat_map(|result| &result.interfaces).filter(|interface| interface.sandbox.is_empty())
    {
        let link = host.link_by_name(&interface.name)?.filter(|link| link.kind.as_deref() == Some("veth"));
        if link.as_ref().is_some_and(|link| link.mac.is_some_and(|mac| mac.to_string() == interface.mac)) {
            return Ok(link);
        }
    }
    Ok(None)
}
