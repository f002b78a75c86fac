//! ADD: brings `lo` up.

use cni_net::{LinkChange, NetError, NetNs, Netlink};
use cni_plugin::{Attachment, CniError, CniResult, Detachment, Request, Undo};
use serde::de::IgnoredAny;

use crate::{del, lo};

/// Brings `lo` up; the kernel gives it 127.0.0.1 and ::1. Idempotent. A previous result is passed on as it is.
pub fn add(request: &Request<IgnoredAny>, to: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse a `lo` with other addresses, as the Go plugin does, but before it is changed.
    let inside = Netlink::open_in(&NetNs::open(&to.netns)?)?;
    let link = lo::find(&inside)?;
    if let Some(foreign) = lo::addresses(&inside, &link)?.iter().find(|address| !address.network.ip().is_loopback()) {
        let address = foreign.network;
        return Err(CniError::plugin(format!(
            "loopback interface found with non-loopback address \"{address}\": remove it from lo in {:?}",
            to.netns
        )));
    }

    // 2. The mark comes first, so that DEL cleans up after a call that is killed from here on.
    if !link.up || lo::is_marked(&link) {
        let failed = Detachment { owner: to.owner.clone(), netns: Some(to.netns.clone()), args: to.args.clone() };
        if !link.altnames.contains(&lo::mark(&to.owner)) {
            undo.push("lo", move || del::del(&failed));
        }
        // A kernel before 5.5 has no alternative names: DEL leaves `lo` up then, which does no harm.
        if let Err(error @ NetError::NoAnswer { .. }) = inside.add_altname(link.index, &lo::mark(&to.owner)) {
            return Err(error.into());
        }
    }

    // 3. Up.
    inside.change_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    match &request.prev_result {
        Some(prev) => Ok(prev.clone()),
        None => Ok(lo::result(&to.netns.to_string_lossy(), &lo::addresses(&inside, &link)?)),
    }
}
