//! CHECK: compares the whole plan with the kernel's state, and names each difference.

use cni_attach::check::{LinkCheck, result_of_add};
use cni_attach::{Sides, forwarding, pair};
use cni_netfilter::Netfilter;
use cni_plugin::{Attachment, CniError, Request, verdict};

use crate::config::Config;
use crate::plan::Plan;
use crate::settings::Settings;

/// Compares everything that ADD made, then asks IPAM.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let owner = &attachment.owner;
    let settings = Settings::resolve(&request.config)?;
    let result = result_of_add(request, attachment, true)?;
    let sides = Sides::open(&attachment.netns)?;
    let plan = Plan::of(&settings, owner, result)?;

    // 1. The host's end.
    let links = LinkCheck::new(attachment, "veth", settings.mtu, result);
    let host = pair::find_or_reported(&sides.host, owner, result)?;
    let mut differences = links.host_end(host.as_ref());
    if let Some(host) = &host {
        differences.extend(plan.host(&host.name.parse()?).check(&sides.host, host.index)?);
    }
    differences.extend(forwarding::check(plan.addresses())?);

    // 2. The container's end.
    let inside = &sides.container.netlink;
    let (container, found) = links.container(inside, host.as_ref())?;
    differences.extend(found);
    if let Some(link) = container {
        differences.extend(plan.container.check_result(result, inside, link.index)?);
    }

    // 3. Masquerading.
    differences.extend(settings.masquerade.check(&Netfilter::new(), &plan.masquerade)?);
    verdict(&differences)?;

    // 4. The reservations.
    request.ipam(&settings.ipam).check()
}
