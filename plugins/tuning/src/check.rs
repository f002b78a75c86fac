//! CHECK: every sysctl and attribute is as ADD set it.

use cni_net::{NetNs, Netlink, sysctl};
use cni_plugin::{Attachment, CniError, Difference, Request, verdict};

use crate::config::Config;
use crate::plan::Plan;
use crate::settings::Settings;

/// Compares what is configured and nothing else, so that a `tcpdump` in the container doesn't make it fail.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let ifname = &attachment.owner.ifname;
    let plan = Plan::new(&Settings::resolve(request, &attachment.args)?, ifname)?;
    request.require_prev_result()?;
    let namespace = NetNs::open(&attachment.netns)?;
    let mut differences: Vec<Difference> = namespace.run(|| sysctl::compare(&plan.sysctls))??;
    if plan.wants_link() {
        match Netlink::open_in(&namespace)?.link_by_name(ifname.as_str())? {
            Some(link) => differences.extend(plan.link.compare(&link)),
            None => differences.push(Difference::missing(format!("interface {ifname} in {:?}", attachment.netns))),
        }
    }
    verdict(&differences)
}
