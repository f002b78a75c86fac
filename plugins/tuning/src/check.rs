//! CHECK: every sysctl and attribute is as ADD set it.

use cni_net::{NetNs, Netlink, SysctlError, sysctl};
use cni_plugin::{Attachment, CniError, Difference, Request, verdict};

use crate::config::Config;
use crate::plan::{Plan, same_value};
use crate::settings::Settings;

/// Compares; what isn't configured is nobody's concern, so a `tcpdump` in the container doesn't make it fail.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let ifname = &attachment.owner.ifname;
    let plan = Plan::new(&Settings::resolve(request, &attachment.args)?, ifname)?;
    request.require_prev_result()?;
    let namespace = NetNs::open(&attachment.netns)?;
    let mut differences: Vec<Difference> = namespace.run(|| sysctl_differences(&plan))??;
    if plan.wants_link() {
        match Netlink::open_in(&namespace)?.link_by_name(ifname.as_str())? {
            Some(link) => differences.extend(plan.compare(&link)),
            None => differences.push(Difference::missing(format!("interface {ifname} in {:?}", attachment.netns))),
        }
    }
    verdict(&differences)
}

fn sysctl_differences(plan: &Plan) -> Result<Vec<Difference>, SysctlError> {
    let mut differences = Vec::new();
    for (path, wanted) in &plan.sysctls {
        match sysctl::read(path) {
            Ok(found) if same_value(wanted, &found) => {}
            Ok(found) => differences.push(Difference::new(format!("sysctl {path}"), wanted, found)),
            Err(SysctlError::NotFound { .. }) => differences.push(Difference::missing(format!("sysctl {path}"))),
            // It can be written only, so it has no value to compare.
            Err(SysctlError::Read { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    Ok(differences)
}
