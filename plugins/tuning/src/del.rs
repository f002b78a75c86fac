//! DEL: puts back what was before.

use cni_net::NetNs;
use cni_plugin::{CniError, Detachment, Request};

use crate::backup::Store;
use crate::config::Config;

/// Puts back what can be put back, and removes the backup. What fails is reported on stderr and isn't an error: the
/// interface is about to go, and the rest of the chain has things on the node to remove.
///
/// Another network's backup is left to that network, unless it is of this very interface: then the network has been renamed.
pub fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    let owner = &detachment.owner;
    let store = Store::of(&request.config)?;
    let Some(backup) = store.read(owner)? else {
        // An ADD that was killed while it wrote may have left half of one.
        return Ok(store.remove(owner)?);
    };
    let namespace = NetNs::open_if_there(detachment.netns.as_deref());
    let renamed = || namespace.as_ref().ok().and_then(Option::as_ref).map(|found| backup.is_of(found, &owner.ifname));
    if !backup.may_be_of(&owner.network) && !matches!(renamed(), Some(Ok(true))) {
        return Ok(());
    }
    let failures = match namespace {
        Ok(None) => Vec::new(),
        Ok(Some(namespace)) => backup.restore(&namespace, &owner.ifname),
        Err(error) => vec![error.to_string()],
    };
    for failure in failures {
        eprintln!("cannot restore: {failure}");
    }
    Ok(store.remove(owner)?)
}
