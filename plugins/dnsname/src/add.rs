//! ADD: carries out the plan.

use std::rc::Rc;

use cni_net::{NetError, Netlink};
use cni_netfilter::Netfilter;
use cni_plugin::{Attachment, CniError, CniResult, Lock, Owner, Request, Undo};

use crate::client;
use crate::config::Config;
use crate::place::Place;
use crate::plan::{NodeLink, Plan};
use crate::settings::Settings;

/// Makes the container known by its names, and returns the previous result with the resolver as name server. Idempotent: the latest
/// call says what the names are. When it returns, they are found.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let settings = Settings::resolve(&request.config, &request.network)?;
    let mut result = request.require_prev_result()?.clone();
    let owner = &attachment.owner;
    let plan = Plan::new(&settings, owner, &attachment.args, &result, &links_of(&result)?)?;
    Lock::hold_attachment(owner, undo)?;

    // 2. The names, and a resolver that has read them.
    let place = Place::new();
    place.create().map_err(|error| CniError::plugin(format!("cannot create {:?}: {error}", place.path())))?;
    {
        let _lock = place.lock()?;
        let taken_back = owner.clone();
        undo.push("the names", move || withdraw(&Place::new(), &taken_back));
        let failed = |error| CniError::plugin(format!("cannot write the names to {:?}: {error}", place.path()));
        place.write(&plan.record).map_err(failed)?;
        client::names(&place, owner)?;
    }

    // 3. The way to it.
    let filter = Rc::new(Netfilter::new());
    filter.add_dns_redirect(settings.backend, &plan.redirect, undo)?;
    result.dns = plan.dns(&result.dns);
    Ok(result)
}

/// The interfaces of a result that are on the node, with their addresses.
pub fn links_of(result: &CniResult) -> Result<Vec<NodeLink>, NetError> {
    let node = Netlink::open()?;
    let mut links: Vec<NodeLink> = Vec::new();
    for interface in result.interfaces.iter().filter(|interface| interface.sandbox.is_empty()) {
        let Ok(name) = interface.name.parse() else { continue };
        let Some(link) = node.link_by_name(&interface.name)? else { continue };
        let addresses = node.addresses(link.index)?.iter().map(|address| address.network.ip()).collect();
        links.push(NodeLink { name, addresses });
    }
    Ok(links)
}

/// Removes an owner's names, and what the last owner leaves in the chains `INPUT`. Starts a resolver where one was killed.
pub fn withdraw(place: &Place, owner: &Owner) -> Result<(), CniError> {
    if !place.exists() {
        return Ok(());
    }
    let _lock = place.lock()?;
    place.remove(owner).map_err(|error| CniError::plugin(format!("cannot remove the names of {owner}: {error}")))?;
    settle(place)
}

/// What remains to be done when files were removed, under the lock.
pub fn settle(place: &Place) -> Result<(), CniError> {
    if place.is_empty()? {
        return Ok(Netfilter::new().remove_dns_accept()?);
    }
    client::heal(place);
    Ok(())
}
