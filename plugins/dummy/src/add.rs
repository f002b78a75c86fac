//! ADD: makes the link, and gives it its addresses.

use cni_attach::ipam::Addresses;
use cni_attach::{Place, Sides, single};
use cni_net::{Dummy, LinkSpec};
use cni_plugin::{Attachment, CniError, CniResult, Request, Undo};

use crate::config::Config;
use crate::settings::Settings;

/// Attaches the container.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let owner = &attachment.owner;
    let settings = Settings::resolve(&request.config)?;
    let sides = Sides::open(&attachment.netns)?;
    sides.refuse_repeat(attachment, undo)?;

    // 2. IPAM works while the link is made.
    let addresses = Addresses::start(Some(request.ipam(&settings.ipam)), &request.config.ipam, undo)?;

    // 3. The link, and what IPAM says about it.
    let spec = LinkSpec::new(owner.ifname.clone(), &Dummy);
    let link = single::create(&sides, owner, &spec, Place::Container, undo)?;
    let result = single::configure(request, attachment, &sides, &link, addresses, None, undo)?;
    Ok(request.with_prev_result(result))
}
