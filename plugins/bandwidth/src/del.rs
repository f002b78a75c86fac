//! DEL: takes the limits away.

use cni_net::{Link, NetError, NetNs, Netlink, Place, QdiscKind};
use cni_plugin::{CniError, Detachment, Request};

use crate::config::Config;
use crate::ifb::Traces;
use crate::settings::{EgressDevice, Settings};
use crate::{host, ifb};

/// Removes what the owner has, whatever the configuration says by now. The filter goes before the ifb: packets that are
/// redirected to none are lost.
pub fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    let node = Netlink::open()?;
    let result = request.prev_result.as_ref();
    let end = host::remaining(&node, detachment, result)?;
    let redirects = end.as_ref().map(|end| node.redirects(end.index)).transpose()?.flatten();
    let traces = Traces { redirects: redirects.clone().unwrap_or_default(), result };
    let ifb = ifb::find(&node, &detachment.owner, &traces)?;
    if let Some(end) = end {
        unlimit(&node, &end)?;
        // Filters that lead elsewhere are another program's. 0 is an ifb that is gone, and no filter at all is an ADD that was
        // killed before it added one.
        let is_ours = |target: &u32| *target == 0 || ifb.as_ref().is_some_and(|ifb| ifb.index == *target);
        if redirects.is_none_or(|targets| !targets.is_empty() && targets.iter().all(is_ours)) {
            remove_ingress(&node, &end)?;
        }
    }
    if let Some(ifb) = ifb {
        node.delete_link(ifb.index)?;
    }
    let is_inside = Settings::resolve(&request.config).is_ok_and(|settings| settings.device == EgressDevice::Container);
    if let Some(namespace) = NetNs::open_if_there(detachment.netns.as_deref())?.filter(|_| is_inside) {
        let inside = Netlink::open_in(&namespace)?;
        if let Some(interface) = inside.link_by_name(detachment.owner.ifname.as_str())? {
            unlimit(&inside, &interface)?;
        }
    }
    Ok(())
}

fn remove_ingress(node: &Netlink, end: &Link) -> Result<(), NetError> {
    if node.qdisc(end.index, Place::Ingress)?.is_some_and(|found| found.kind == QdiscKind::Ingress) {
        node.delete_qdisc(end.index, Place::Ingress)?;
    }
    Ok(())
}

fn unlimit(socket: &Netlink, link: &Link) -> Result<(), NetError> {
    let found = socket.qdisc(link.index, Place::Root)?;
    if found.is_some_and(|found| found.handle == 1 && matches!(found.kind, QdiscKind::Tbf(_))) {
        socket.delete_qdisc(link.index, Place::Root)?;
    }
    Ok(())
}
