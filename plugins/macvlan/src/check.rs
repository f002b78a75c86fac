//! CHECK: compares all of the attachment with what is there, and names each difference.

use cni_attach::check::{LinkCheck, result_of_add};
use cni_attach::{Sides, ipam, single};
use cni_plugin::{Attachment, CniError, Difference, Request, verdict};

use crate::KIND;
use crate::config::Config;
use crate::settings::Settings;

/// Compares everything that ADD made, then asks IPAM.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let owner = &attachment.owner;
    let settings = Settings::resolve(&request.config, &attachment.args)?;
    let ipam = ipam::configured(request, &request.config.ipam)?;
    let result = result_of_add(request, attachment, ipam.is_some())?;
    let sides = Sides::open(&attachment.netns)?;

    // 1. The link, its addresses and its routes.
    let (link, mut differences) = single::check(&sides, &LinkCheck::new(attachment, KIND, settings.mtu, result))?;
    if let Some(link) = &link {
        differences.extend(settings.parent.check(&sides, link)?);
        if let Some(mode) = link.macvlan_mode.filter(|mode| *mode != settings.mode) {
            differences.push(Difference::new(format!("mode of {}", link.name), settings.mode, mode));
        }
    }

    // 2. The node's own link to the containers.
    if let Some(shim) = &settings.shim {
        let ips: Vec<_> = result.ips_of(&owner.ifname).iter().map(|ip| ip.address.ip()).collect();
        differences.extend(shim.check(&sides.host, owner, &ips)?);
    }
    verdict(&differences)?;

    // 3. The reservations.
    ipam.map_or(Ok(()), |ipam| ipam.check())
}
