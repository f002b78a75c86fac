//! DEL: removes what the owner has, whatever is left of the configuration, the namespace and the previous result.

use cni_net::{Link, Netlink, localnet, pair};
use cni_netfilter::{MacGuardHint, Netfilter};
use cni_plugin::{CniError, Detachment, IfName, Lock, Owner, Request};
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::{host, settings};

/// Detaches the container. Every part is tried, but for the last where the link could not be removed, and the first failure
/// is reported.
pub fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    let owner = &detachment.owner;
    // Nothing that a killed ADD has left at work may come after this.
    let _alone = Lock::if_possible(Lock::of_attachment(owner))?;
    let filter = Netfilter::new();
    let socket = Netlink::open()?;
    let mut steps = Vec::new();

    // 1. Rules first: the kernel's grace period for them passes while the link goes.
    //    The configuration may have changed since ADD, so it is not asked what there is.
    let masquerade = filter.start_remove_masquerade(owner, &addresses_told(request));
    // The pair's own step reports what fails here.
    let port = pair::find(&socket, owner).ok().flatten();
    let hint = guard_hint(request, owner, port.as_ref());
    let thorough = request.config.mac_spoof_check || hint.port.is_none() || hint.mac.is_none();
    steps.push(filter.remove_mac_guard(owner, &hint, thorough).map_err(CniError::from));

    // 2. The pair, before its addresses can be given to somebody else.
    let pair = pair::delete(detachment, request.prev_result.as_ref()).map_err(CniError::from);
    let is_gone = pair.is_ok();
    steps.push(pair);
    steps.push(masquerade.finish().map_err(CniError::from));

    // 3. Where it is wanted, the bridge that has no port any more.
    //    A name that isn't valid is no link's.
    let bridge = settings::bridge_name(&request.config).ok();
    steps.push(
        localnet::keep_guarded(bridge.as_ref().map(IfName::as_str), || filter.guard_localnet()).map_err(CniError::from),
    );
    if let Some(name) = bridge.filter(|_| request.config.remove_empty_bridge) {
        steps.push(host::remove_if_empty(&socket, &name).map_err(CniError::from));
    }

    // 4. The addresses, unless the container may still use them: IPAM would give them to another one. They stay reserved
    //    until a later DEL or GC has removed the link.
    let ipam = &request.config.ipam.plugin_type;
    if !ipam.is_empty() && is_gone {
        steps.push(request.ipam(ipam).del());
    }
    steps.into_iter().collect()
}

fn addresses_told(request: &Request<Config>) -> Vec<IpNetwork> {
    request.prev_result.iter().flat_map(|result| &result.ips).map(|ip| ip.address).collect()
}

/// The port by its link, or by the result where that is gone; the address by the result, as a later plugin may have
/// changed the link's.
fn guard_hint(request: &Request<Config>, owner: &Owner, port: Option<&Link>) -> MacGuardHint {
    let told = request.prev_result.as_ref().map(|result| result.interfaces.as_slice()).unwrap_or_default();
    let container = told.iter().find(|found| found.name == owner.ifname.as_str() && !found.sandbox.is_empty());
    let told_port = told.get(1).filter(|found| found.sandbox.is_empty()).map(|found| found.name.as_str());
    let port = port.map(|link| link.name.as_str()).or(told_port);
    MacGuardHint {
        port: port.and_then(|name| name.parse().ok()),
        mac: container.and_then(|container| container.mac.parse().ok()),
    }
}
