//! CHECK: compares all of the attachment with what is there, and names each difference.

use cni_attach::check::{LinkCheck, result_of_add};
use cni_attach::{Sides, ipam, single};
use cni_plugin::{Attachment, CniError, Difference, Request, verdict};

use crate::KIND;
use crate::config::Config;
use crate::settings::Settings;

/// Compares everything that ADD made, then asks IPAM.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    let ipam = ipam::configured(request, &request.config.ipam)?;
    let result = result_of_add(request, attachment, ipam.is_some())?;
    let sides = Sides::open(&attachment.netns)?;
    let (link, mut differences) = single::check(&sides, &LinkCheck::new(attachment, KIND, settings.mtu, result))?;
    if let Some(link) = &link {
        differences.extend(settings.parent.check(&sides, link)?);
        if let Some(id) = link.vlan_id.filter(|id| *id != settings.vlan_id) {
            differences.push(Difference::new(format!("VLAN ID of {}", link.name), settings.vlan_id, id));
        }
    }
    verdict(&differences)?;
    ipam.map_or(Ok(()), |ipam| ipam.check())
}
