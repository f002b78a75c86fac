//! ADD: writes down what is, then makes the plan so.

use std::rc::Rc;

use cni_net::{Link, NetNs, Netlink, SysctlError, sysctl};
use cni_plugin::{Attachment, CniError, CniResult, Owner, Request, Undo};

use crate::allow;
use crate::backup::{Backup, Store};
use crate::config::Config;
use crate::plan::Plan;
use crate::restore::restore;
use crate::settings::Settings;

/// Sets what is configured and returns the previous result with it. Idempotent.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let owner = &attachment.owner;
    let settings = Settings::resolve(request, &attachment.args)?;
    allow::permit(&settings)?;
    let plan = Plan::new(&settings, &owner.ifname)?;
    let prev = request.require_prev_result()?;
    let namespace = Rc::new(NetNs::open(&attachment.netns)?);
    if plan == Plan::default() {
        return Ok(prev.clone());
    }
    let inside = Netlink::open_in(&namespace)?;
    let link = inside.link_by_name(owner.ifname.as_str())?;
    if plan.wants_link() && link.is_none() {
        return Err(CniError::plugin(format!(
            "failed to get {:?}: it is not in {:?}",
            owner.ifname.as_str(),
            attachment.netns
        )));
    }

    // 2. What was before, on disk before anything changes: DEL puts it back even if this is killed.
    let before = present(&plan, &namespace, link.as_ref(), owner)?;
    write_down(&Store::new(request.config.data_dir()?), &namespace, owner, before, undo)?;

    // 3. The sysctls.
    namespace.run(|| plan.sysctls.iter().try_for_each(|(path, value)| sysctl::write(path, value)))??;

    // 4. The interface.
    if let Some(link) = link.filter(|_| plan.wants_link()) {
        inside
            .change_link(link.index, &plan.link)
            .map_err(|error| CniError::from(error).details(format!("wanted of {}: {}", owner.ifname, wanted(&plan))))?;
    }
    Ok(plan.result(prev, &owner.ifname))
}

/// What the plan is going to change, as it is. A sysctl that does not exist is an error now, not halfway.
fn present(plan: &Plan, namespace: &NetNs, link: Option<&Link>, owner: &Owner) -> Result<Backup, CniError> {
    let mut before = Backup {
        network: Some(owner.network.to_string()),
        netns: Some(namespace.inode()),
        ifindex: link.map(|link| link.index),
        ..Backup::default()
    };
    if let Some(link) = link {
        before.mac = plan.link.mac.and(link.mac).map(|mac| mac.to_string());
        before.mtu = plan.link.mtu.map(|_| link.mtu);
        before.promisc = plan.link.promisc.map(|_| link.promisc);
        before.allmulti = plan.link.allmulti.map(|_| link.all_multicast);
        before.tx_q_len = plan.link.txqlen.map(|_| link.txqlen);
    }
    let read = |path: &String| match sysctl::read(path) {
        Ok(value) => Ok(Some((path.clone(), value))),
        // Some can be written only: they make the kernel do something, which can't be taken back.
        Err(SysctlError::Read { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(error),
    };
    let values: Vec<_> = namespace.run(|| plan.sysctls.keys().map(read).collect::<Result<_, _>>())??;
    before.sysctl = values.into_iter().flatten().collect();
    Ok(before)
}

/// The undo puts back what this call changes, and the backup of the one before in the chain.
fn write_down(
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
        let failures = restore(&namespace, &owner.ifname, &before);
        let file = match &earlier {
            Some(earlier) => store.write(&owner, earlier),
            None => store.remove(&owner),
        };
        let failures: Vec<String> = failures.into_iter().chain(file.err().map(|error| error.to_string())).collect();
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    });
    Ok(())
}

fn wanted(plan: &Plan) -> String {
    let link = &plan.link;
    let parts = [
        link.mac.map(|mac| format!("mac {mac}")),
        link.mtu.map(|mtu| format!("mtu {mtu}")),
        link.promisc.map(|on| format!("promisc {on}")),
        link.allmulti.map(|on| format!("allmulti {on}")),
        link.txqlen.map(|length| format!("txQLen {length}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
