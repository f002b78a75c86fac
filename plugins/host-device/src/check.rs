//! CHECK: compares the device in the container with what ADD reported.

use cni_attach::check::result_of_add;
use cni_attach::{LinkCheck, Sides, ipam, single};
use cni_net::Link;
use cni_plugin::{Attachment, CniError, Difference, Request, verdict};

use crate::config::Config;
use crate::device;
use crate::moving;
use crate::settings::Settings;

/// Compares the device, its addresses and its routes, then asks IPAM.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    let ipam = ipam::configured(request, &request.config.ipam)?;
    let result = result_of_add(request, attachment, ipam.is_some())?;
    let sides = Sides::open(&attachment.netns)?;
    if !device::is_in_userspace(&settings) {
        // The node's device may be of any kind. It keeps its MTU, which is compared if the result has it.
        let wanted = LinkCheck::new(attachment, "", Some(0), result);
        let (link, mut differences) = single::check(&sides, &wanted)?;
        differences.extend(link.and_then(|link| other_device(&link, attachment, &request.config)));
        verdict(&differences)?;
    }
    ipam.map_or(Ok(()), |ipam| ipam.check())
}

/// The interface is no device of the node that was moved for this attachment, by this plugin or by the Go one, which leaves the
/// name as alias and no mark.
fn other_device(link: &Link, attachment: &Attachment, config: &Config) -> Option<Difference> {
    let name = moving::name_in_alias(link).map(|name| name.to_string()).unwrap_or_default();
    let is_ours = link.altnames.contains(&moving::mark(&attachment.owner.key()));
    let is_device = config.device.is_empty() || config.device.len() > 15 || name == config.device;
    if (is_ours || !moving::is_marked(link)) && is_device && !name.is_empty() {
        return None;
    }
    let expected = if config.device.is_empty() { "a device of the node" } else { &config.device };
    let found = if name.is_empty() { "another link".to_owned() } else { format!("device {name:?}") };
    Some(Difference::new(format!("interface {}", link.name), expected, found))
}
