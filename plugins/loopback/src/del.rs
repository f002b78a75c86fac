//! DEL: takes `lo` down if nobody else needs it.

use cni_net::{LinkChange, NetNs, Netlink};
use cni_plugin::{CniError, Detachment};

use crate::plan;

/// Removes the attachment's mark, and with the last mark takes `lo` down. Without a mark (no ADD, a failed one, one by
/// the Go plugin, DEL again, `lo` up before the first ADD) nothing is changed. A namespace that is gone is fine.
pub fn del(from: &Detachment) -> Result<(), CniError> {
    let Some(namespace) = NetNs::open_if_there(from.netns.as_deref())? else { return Ok(()) };
    let inside = Netlink::open_in(&namespace)?;
    let lo = plan::find(&inside)?;
    let mark = plan::mark(&from.owner);
    if !lo.altnames.contains(&mark) {
        return Ok(());
    }
    let set = |up: bool| inside.change_link(lo.index, &LinkChange { up: Some(up), ..LinkChange::default() });
    let is_last = lo.altnames.iter().filter(|name| *name != &mark).all(|name| !plan::is_mark(name));
    if is_last {
        set(false)?;
    }
    inside.delete_altname(lo.index, &mark)?;
    // Whoever attached meanwhile saw a marked or lowered `lo`, so it has marked it: then it has to be up after all.
    if is_last && plan::is_marked(&plan::find(&inside)?) {
        set(true)?;
    }
    Ok(())
}
