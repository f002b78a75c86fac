//! CHECK: compares all of the attachment with what is there, and names each difference.

use cni_attach::check::{LinkCheck, result_of_add};
use cni_attach::{Sides, single};
use cni_plugin::{Attachment, CniError, Request, verdict};

use crate::KIND;
use crate::config::Config;
use crate::settings::Settings;

/// Compares everything that ADD made, then asks IPAM.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    let result = result_of_add(request, attachment, true)?;
    let sides = Sides::open(&attachment.netns)?;
    let (_, differences) = single::check(&sides, &LinkCheck::new(attachment, KIND, None, result))?;
    verdict(&differences)?;
    request.ipam(&settings.ipam).check()
}
