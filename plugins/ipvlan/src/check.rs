//! CHECK: compares all of the attachment with what is there, and names each difference.

use cni_attach::check::{LinkCheck, result_of_add};
use cni_attach::{Sides, single};
use cni_plugin::{Attachment, CniError, Difference, Request, verdict};

use crate::KIND;
use crate::config::Config;
use crate::settings::{Settings, chained};

/// Compares everything that ADD made, then asks IPAM.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    let result = result_of_add(request, attachment, true)?;
    let is_chained = chained(&request.config, Some(result))?.is_some();
    let sides = Sides::open(&attachment.netns)?;
    let (link, mut differences) = single::check(&sides, &LinkCheck::new(attachment, KIND, settings.mtu, result))?;
    if let Some(link) = &link {
        differences.extend(settings.parent.check(&sides, link)?);
        if let Some(mode) = link.ipvlan_mode.filter(|mode| *mode != settings.mode) {
            differences.push(Difference::new(format!("mode of {}", link.name), settings.mode, mode));
        }
    }
    verdict(&differences)?;
    if is_chained { Ok(()) } else { request.ipam(&request.config.ipam.plugin_type).check() }
}
