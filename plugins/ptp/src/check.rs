//! CHECK: compares the whole plan with what is there, and names each difference.

use cni_net::pair::{self, PairCheck};
use cni_net::{NetNs, Netlink, forwarding};
use cni_netfilter::Netfilter;
use cni_plugin::{Attachment, CniError, NameError, Request, verdict};

use crate::config::Config;
use crate::plan::Plan;
use crate::settings::Settings;

/// Compares everything that ADD made, then asks IPAM.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let owner = &attachment.owner;
    let settings = Settings::resolve(&request.config)?;
    let told = request.require_result_of_add()?;
    told.require_of_add(&owner.ifname, true)?;
    let namespace = NetNs::open(&attachment.netns)?;
    let socket = Netlink::open()?;
    let inside = Netlink::open_in(&namespace)?;
    let plan = Plan::of(&settings, owner, told)?;

    // 1. The host's end.
    let pair = PairCheck { ifname: &owner.ifname, netns: &attachment.netns, mtu: settings.mtu, up: true, told };
    let host = pair::find_or_told(&socket, owner, told)?;
    let mut differences = pair.host(host.as_ref());
    if let Some(host) = &host {
        let name = host.name.parse().map_err(|error: NameError| CniError::plugin(error.to_string()))?;
        differences.extend(plan.host(name).check(&socket, host.index)?);
    }
    for family in plan.families() {
        differences.extend(forwarding::check(family)?);
    }

    // 2. The container's end.
    let (container, found) = pair.container(&inside, host.as_ref())?;
    differences.extend(found);
    if let Some(link) = container {
        let layer3 = plan.layer3.without_routes_of_others(told, &inside)?;
        differences.extend(layer3.check(&inside, link.index)?);
    }

    // 3. Masquerading.
    if settings.masquerade {
        differences.extend(Netfilter::new().compare_masquerade(settings.backend, &plan.masquerade)?);
    }
    verdict(&differences)?;

    // 4. The reservations.
    request.ipam(&settings.ipam).check()
}
