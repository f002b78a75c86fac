//! DEL: takes the interface out of the VRF, and deletes the VRF with its last one.

use cni_net::{NetError, NetNs, Netlink};
use cni_plugin::{CniError, Detachment, Owner, Request};

use crate::config::Config;
use crate::enslave;

/// Releases the interface. A namespace, a VRF or an interface that is gone is fine.
pub fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    let Some(namespace) = NetNs::open_if_there(detachment.netns.as_deref())? else { return Ok(()) };
    let configured = Some(request.config.vrfname.as_str()).filter(|name| !name.is_empty());
    Ok(release(&Netlink::open_in(&namespace)?, &detachment.owner, configured)?)
}

/// Takes the owner's interface out of the VRF with the owner's mark, or of one of the configured name without any mark, which the Go
/// plugin made. Idempotent.
pub fn release(inside: &Netlink, owner: &Owner, configured: Option<&str>) -> Result<(), NetError> {
    let mark = enslave::mark(owner);
    let vrf = match (inside.link_by_altname(&mark)?, configured) {
        (Some(vrf), _) => Some(vrf),
        (None, Some(name)) => {
            inside.link_by_name(name)?.filter(|vrf| vrf.vrf_table.is_some() && !enslave::is_marked(vrf))
        }
        (None, None) => None,
    };
    let Some(vrf) = vrf else { return Ok(()) };
    let link = inside.link_by_name(owner.ifname.as_str())?;
    if let Some(link) = link.filter(|link| link.master == Some(vrf.index)) {
        enslave::leave(inside, &link, &vrf)?;
    }
    if inside.links_with_master(vrf.index)?.is_empty() {
        inside.delete_link(vrf.index)?;
        return Ok(());
    }
    inside.delete_altname(vrf.index, &mark).map(drop)
}
