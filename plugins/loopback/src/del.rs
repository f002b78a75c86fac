//! DEL: takes `lo` down if no other attachment needs it.

use cni_net::{LinkChange, NetNs, Netlink};
use cni_plugin::{CniError, Detachment};

use crate::lo;

/// Removes the attachment's mark, and with the last mark takes `lo` down. Without a mark (no ADD, a failed one, one by
/// the Go plugin, DEL again, `lo` up before the first ADD) nothing is changed. A namespace that is gone is fine.
pub fn del(from: &Detachment) -> Result<(), CniError> {
    let Some(namespace) = NetNs::open_if_there(from.netns.as_deref())? else { return Ok(()) };
    let inside = Netlink::open_in(&namespace)?;
    let link = lo::find(&inside)?;
    let mark = lo::mark(&from.owner);
    if !link.altnames.contains(&mark) {
        return Ok(());
    }
    let set = |up: bool| inside.change_link(link.index, &LinkChange { up: Some(up), ..LinkChange::default() });
    let is_last = link.altnames.iter().filter(|name| *name != &mark).all(|name| !lo::is_mark(name));
    if is_last {
        set(false)?;
    }
    inside.delete_altname(link.index, &mark)?;
    // An ADD that came between saw a `lo` that was marked or down, so it has marked it: `lo` has to be up after all.
    if is_last && lo::is_marked(&lo::find(&inside)?) {
        set(true)?;
    }
    Ok(())
}
