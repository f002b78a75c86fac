//! CHECK: compares the whole plan with what is there, and names each difference.

use cni_net::{NetNs, Netlink, pair};
use cni_netfilter::Netfilter;
use cni_plugin::{Attachment, CniError, Difference, Interface, Request, verdict};

use crate::config::Config;
use crate::host;
use crate::plan::Plan;
use crate::settings::Settings;

/// Compares everything that ADD made, then asks IPAM.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let owner = &attachment.owner;
    let settings = Settings::resolve(&request.config)?;
    let told = request.require_result_of_add()?;
    let namespace = NetNs::open(&attachment.netns)?;
    let socket = Netlink::open()?;
    let inside = Netlink::open_in(&namespace)?;
    let plan = Plan::of(&settings, owner, told)?;

    // 1. The host's end.
    let host = pair::find_or_told(&socket, owner, told)?;
    let told_host = host.as_ref().and_then(|link| {
        let is_it = |interface: &&Interface| interface.name == link.name && interface.sandbox.is_empty();
        told.interfaces.iter().find(is_it)
    });
    let mut differences = pair::check_host(host.as_ref(), settings.mtu, told_host);
    if let Some(host) = &host {
        differences.extend(host::check(&socket, &host.name, host.index, &plan)?);
    }

    // 2. The container's end.
    match inside.link_by_name(owner.ifname.as_str())? {
        Some(link) => {
            let told_link = told.interface(&owner.ifname).map(|(_, told)| told);
            differences.extend(pair::check_container(&link, host.as_ref(), settings.mtu, told_link));
            if !link.up {
                differences.push(Difference::new(format!("interface {}", link.name), "up", "down"));
            }
            differences.extend(plan.layer3.check(&inside, link.index)?);
        }
        None => {
            let thing = format!("interface {} in {:?}", owner.ifname, attachment.netns);
            differences.push(Difference::missing(thing));
        }
    }

    // 3. Masquerading.
    if settings.masquerade {
        let filter = Netfilter::new();
        differences.extend(filter.check_masquerade(filter.choose(settings.backend)?, &plan.masquerade)?);
    }
    verdict(&differences)?;

    // 4. The reservations.
    request.ipam(&settings.ipam).check()
}
