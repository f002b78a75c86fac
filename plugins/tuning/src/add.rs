//! ADD: writes a backup of the present values, then carries out the plan.

use std::rc::Rc;

use cni_net::{NetNs, Netlink, sysctl};
use cni_plugin::{Attachment, CniError, CniResult, Owner, Request, Undo};

use crate::allow_list;
use crate::backup::{Backup, Store};
use crate::config::Config;
use crate::plan::Plan;
use crate::settings::Settings;

/// Sets what is configured and returns the previous result with it. Idempotent.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let owner = &attachment.owner;
    let settings = Settings::resolve(request, &attachment.args)?;
    allow_list::permit(&settings)?;
    let plan = Plan::new(&settings, &owner.ifname)?;
    let prev = request.require_prev_result()?;
    let namespace = Rc::new(NetNs::open(&attachment.netns)?);
    if plan.is_empty() {
        return Ok(prev.clone());
    }
    let inside = Netlink::open_in(&namespace)?;
    let link = inside.link_by_name(owner.ifname.as_str())?;
    if plan.wants_link() && link.is_none() {
        return Err(CniError::plugin(format!("failed to get {:?}: it is not in {:?}", owner.ifname, attachment.netns)));
    }

    // 2. What was before, on disk before anything changes: DEL puts it back even if this is killed.
    let before = Backup {
        network: Some(owner.network.to_string()),
        netns: Some(namespace.inode()),
        ifindex: link.as_ref().map(|link| link.index),
        peer: link.as_ref().and_then(|link| link.peer_index),
        sysctl: namespace.run(|| sysctl::present(plan.sysctls.keys()))??,
        ..link.as_ref().map_or_else(Backup::default, |link| Backup::of(&plan.link.before(link)))
    };
    write_backup(&Store::of(&request.config)?, &namespace, owner, before, undo)?;

    // 3. The sysctls.
    namespace.run(|| sysctl::write_all(&plan.sysctls))??;

    // 4. The interface.
    if let Some(link) = link.filter(|_| plan.wants_link()) {
        inside
            .change_link(link.index, &plan.link)
            .map_err(|error| CniError::from(error).details(format!("wanted of {}: {}", owner.ifname, plan.link)))?;
    }
    Ok(plan.result(prev))
}

/// The undo puts back what this call changes, and the backup of the one before in the chain.
fn write_backup(
    store: &Store,
    namespace: &Rc<NetNs>,
    owner: &Owner,
    before: Backup,
    undo: &mut Undo,
) -> Result<(), CniError> {
    let earlier = store.read(owner)?;
    store.write(owner, &before.clone().after(earlier.clone().unwrap_or_default()))?;
    let (store, namespace, owner) = (store.clone(), Rc::clone(namespace), owner.clone());
    undo.push("sysctls and interface attributes", move || {
        let failures = before.restore(&namespace, &owner.ifname);
        let file = match &earlier {
            Some(earlier) => store.write(&owner, earlier),
            None => store.remove(&owner),
        };
        let failures: Vec<String> = failures.into_iter().chain(file.err().map(|error| error.to_string())).collect();
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    });
    Ok(())
}
