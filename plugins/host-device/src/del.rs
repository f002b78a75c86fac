//! DEL: puts the device back, also without the namespace, the previous result or a complete configuration.

use std::path::Path;

use cni_attach::check::check_mac;
use cni_attach::removal::Removal;
use cni_net::{LinkChange, NetNs, Netlink};
use cni_plugin::{CniError, Detachment, Ipam, Lock, Request};

use crate::config::Config;
use crate::moving::{self, MovingError};
use crate::saved::Store;

/// Detaches the container. Every part is tried, but for the last where the device could not be put back, and the first failure
/// is reported.
pub fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    // What a killed ADD has left at work must not be done after this.
    let _alone = Lock::if_possible(Lock::of_attachment(&detachment.owner))?;
    let mut removal = Removal::begin(request, &request.config.ipam, Ipam::del);
    removal.link(device(request, detachment));
    removal.finish()
}

fn device(request: &Request<Config>, detachment: &Detachment) -> Result<(), MovingError> {
    let netns = detachment.netns.as_deref();
    let store = Store::open()?;
    if let Some(store) = &store {
        moving::put_back(store, &detachment.owner.key(), netns)?;
    }
    device_of_go(request, detachment, netns)
}

/// A device that the Go plugin moved, or ours whose file is gone: it has its name on the node as alias. Not one with the mark of
/// another attachment, nor another one than is configured or reported.
fn device_of_go(request: &Request<Config>, detachment: &Detachment, netns: Option<&Path>) -> Result<(), MovingError> {
    let Some(namespace) = NetNs::open_if_there(netns)? else { return Ok(()) };
    let (owner, inside) = (&detachment.owner, Netlink::open_in(&namespace)?);
    let Some(link) = inside.link_by_name(owner.ifname.as_str())? else { return Ok(()) };
    let Some(name) = moving::name_in_alias(&link) else { return Ok(()) };
    let (mark, device) = (moving::mark(&owner.key()), &request.config.device);
    let is_of_another = moving::is_marked(&link) && !link.altnames.contains(&mark);
    let is_configured = device.is_empty() || device == name.as_str();
    let reported = request.prev_result.as_ref().and_then(|result| result.interface(&owner.ifname));
    let is_reported = check_mac(&link, reported.map(|(_, reported)| reported)).is_none();
    if is_of_another || !is_configured || !is_reported {
        return Ok(());
    }
    let host = Netlink::open()?;
    moving::move_out(&inside, &host, &link, &name)?;
    if let Some(link) = host.link_by_name(name.as_str())? {
        host.change_link(link.index, &LinkChange { alias: Some(String::new()), ..LinkChange::default() })?;
        host.delete_altname(link.index, &mark)?;
    }
    Ok(())
}
