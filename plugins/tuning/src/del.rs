//! DEL: puts back what was before.

use cni_net::NetNs;
use cni_plugin::{CniError, Detachment, Request, Undecoded};

use crate::backup::Store;
use crate::restore::restore;

/// Puts back what can be put back, and removes the backup. What fails is told on stderr and isn't an error: the
/// interface is about to go, and the rest of the chain has things on the node to remove.
pub fn del(request: &Request<Undecoded>, detachment: &Detachment) -> Result<(), CniError> {
    let owner = &detachment.owner;
    let store = Store::of(&request.config)?;
    let Some(backup) = store.read(owner)? else {
        // An ADD that was killed while it wrote may have left half of one.
        return Ok(store.remove(owner)?);
    };
    if !backup.may_be_of(&owner.network) {
        return Ok(());
    }
    let failures = match NetNs::open_if_there(detachment.netns.as_deref()) {
        Ok(None) => Vec::new(),
        Ok(Some(namespace)) => restore(&namespace, &owner.ifname, &backup),
        Err(error) => vec![error.to_string()],
    };
    for failure in failures {
        eprintln!("not as it was before: {failure}");
    }
    Ok(store.remove(owner)?)
}
