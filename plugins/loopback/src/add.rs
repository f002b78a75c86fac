//! ADD: brings `lo` up.

use cni_net::{LinkChange, NetNs, Netlink};
use cni_plugin::{Attachment, CniError, CniResult, Detachment, Request, Undo};
use serde::de::IgnoredAny;

use crate::{del, plan};

/// Brings `lo` up; the kernel gives it 127.0.0.1 and ::1. Idempotent. A previous result is passed on as it is.
pub fn add(request: &Request<IgnoredAny>, to: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse a `lo` that somebody uses for something else, as the Go plugin does, but before it is changed.
    let inside = Netlink::open_in(&NetNs::open(&to.netns)?)?;
    let lo = plan::find(&inside)?;
    if let Some(foreign) = plan::addresses(&inside, &lo)?.iter().find(|address| !address.network.ip().is_loopback()) {
        let address = foreign.network;
        return Err(CniError::plugin(format!(
            "loopback interface found with non-loopback address \"{address}\": remove it from lo in {:?}",
            to.netns
        )));
    }

    // 2. The mark first: whoever is killed after this is cleaned up after by DEL.
    if !lo.up || plan::is_marked(&lo) {
        let failed = Detachment { owner: to.owner.clone(), netns: Some(to.netns.clone()), args: to.args.clone() };
        if !lo.altnames.contains(&plan::mark(&to.owner)) {
            undo.push("lo", move || del::del(&failed));
        }
        // A kernel before 5.5 has no alternative names: DEL leaves `lo` up then, which harms nobody.
        let _ = inside.add_altname(lo.index, &plan::mark(&to.owner));
    }

    // 3. Up.
    inside.change_link(lo.index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    match &request.prev_result {
        Some(prev) => Ok(prev.clone()),
        None => Ok(plan::result(&to.netns.to_string_lossy(), &plan::addresses(&inside, &lo)?)),
    }
}
