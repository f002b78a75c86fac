//! DEL: removes what the owner has, also without the namespace, the previous result or a complete configuration.

use cni_attach::pair;
use cni_attach::removal::{Removal, reported_addresses};
use cni_net::{Link, Netlink, localnet};
use cni_netfilter::{MacGuardHint, Netfilter};
use cni_plugin::{CniError, Detachment, IfName, Ipam, Lock, Owner, Request};

use crate::config::Config;
use crate::{bridge, settings};

/// Detaches the container. Every step is tried, except the last one if the link could not be removed; returns the first failure.
pub fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    let owner = &detachment.owner;
    // What a killed ADD has left at work must not be done after this.
    let _alone = Lock::if_possible(Lock::of_attachment(owner))?;
    let filter = Netfilter::new();
    let host = Netlink::open()?;
    let mut removal = Removal::begin(request, &request.config.ipam, Ipam::del);

    // 1. The pair, before its addresses can be given to another container. Of the rules all there are, as the configuration may have
    //    changed since ADD. What fails in finding the port, the pair's own step reports.
    let port = pair::find(&host, owner).ok().flatten();
    let (addresses, hint) = (reported_addresses(request), guard_hint(request, owner, port.as_ref()));
    let rules = || {
        let filter = Netfilter::new();
        let masquerade = filter.remove_masquerade(owner, &addresses);
        filter.remove_mac_guard(owner, &hint).and(masquerade)
    };
    removal.rules_beside_link(rules, || pair::delete(detachment, request.prev_result.as_ref()));

    // 2. If that is configured, the bridge that has no port any more.
    //    A name that isn't valid is no link's.
    let name = settings::bridge_name(&request.config).ok();
    removal.step(localnet::keep_guarded(name.as_ref().map(IfName::as_str), || filter.add_localnet_guard()));
    if let Some(name) = name.filter(|_| request.config.remove_empty_bridge) {
        removal.step(bridge::remove_if_empty(&host, &name));
    }

    // 3. The addresses.
    removal.finish()
}

/// The port by its link, or by the result where that is gone; the address by the result, as a later plugin may have
/// changed the link's.
fn guard_hint(request: &Request<Config>, owner: &Owner, port: Option<&Link>) -> MacGuardHint {
    let reported = request.prev_result.as_ref().map(|result| result.interfaces.as_slice()).unwrap_or_default();
    let container = reported.iter().find(|found| found.name == owner.ifname.as_str() && !found.sandbox.is_empty());
    let reported_port = reported.get(1).filter(|found| found.sandbox.is_empty()).map(|found| found.name.as_str());
    let port = port.map(|link| link.name.as_str()).or(reported_port);
    MacGuardHint {
        port: port.and_then(|name| name.parse().ok()),
        mac: container.and_then(|container| container.mac.parse().ok()),
    }
}
