//! ADD: puts the container's interface into the VRF.

use std::rc::Rc;

use cni_net::{NetNs, Netlink};
use cni_plugin::{Attachment, CniError, CniResult, Request, Undo};

use crate::config::Config;
use crate::settings::Settings;
use crate::{del, enslave};

/// Changes the interface of the previous result, and returns that.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let settings = Settings::resolve(&request.config)?;
    let result = request.require_prev_result()?.clone();
    let owner = &attachment.owner;
    let inside = Rc::new(Netlink::open_in(&NetNs::open(&attachment.netns)?)?);
    let link = inside.link_by_name(owner.ifname.as_str())?.ok_or_else(|| {
        CniError::plugin(format!("the container has no interface {} in {:?}", owner.ifname, attachment.netns))
    })?;
    if let Some(master) = link.master {
        let name = inside.link_by_index(master)?.map_or_else(|| master.to_string(), |master| master.name);
        return Err(CniError::plugin(format!("interface {} has already a master set: {name}", owner.ifname)));
    }

    // 2. The VRF, with the attachment's mark: by that DEL finds it without a configuration.
    let vrf = enslave::ensure(&inside, &attachment.netns, &settings, undo)?;
    let (socket, from, path) = (inside.clone(), owner.clone(), attachment.netns.clone());
    let release = move |socket: &Netlink| del::release(socket, &from, None);
    undo.push(format!("{} in VRF {}", owner.ifname, vrf.name), move || enslave::insist(&socket, &path, &release));
    inside.add_altname(vrf.index, &enslave::mark(owner))?;

    // 3. The interface, its addresses and its routes.
    enslave::join(&inside, &link, &vrf)?;
    Ok(result)
}
