//! CHECK: compares the device with the configuration and with what ADD reported.

use cni_attach::check::result_of_add;
use cni_attach::{LinkCheck, Sides, ipam, single};
use cni_net::{Link, NetError, Netlink};
use cni_plugin::{Attachment, CniError, Difference, Request, verdict};

use crate::config::Config;
use crate::device;
use crate::settings::Settings;

/// Compares the device, its addresses and its routes, then asks IPAM.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config, &attachment.args)?;
    let ipam = ipam::configured(request, &request.config.ipam)?;
    let result = result_of_add(request, attachment, ipam.is_some())?;
    let sides = Sides::open(&attachment.netns)?;
    let (link, mut differences) =
        single::check(&sides, &LinkCheck::new(attachment, device::KIND, settings.mtu, result))?;
    if let Some(link) = link {
        differences.extend(users(&link, &request.config));
        differences.extend(bridge(&sides.container.netlink, &link, &settings)?);
    }
    verdict(&differences)?;
    ipam.map_or(Ok(()), |ipam| ipam.check())
}

/// Who may open it, and how often.
fn users(link: &Link, config: &Config) -> Vec<Difference> {
    let Some(found) = link.tun else { return Vec::new() };
    let id = |id: Option<u32>| id.map_or_else(|| "none".to_owned(), |id| id.to_string());
    let pairs = [
        ("owner", id(config.owner), id(found.owner)),
        ("group", id(config.group), id(found.group)),
        ("multiQueue", config.multi_queue.to_string(), found.multi_queue.to_string()),
    ];
    let differing = pairs.into_iter().filter(|(_, wanted, found)| wanted != found);
    differing.map(|(key, wanted, found)| Difference::new(format!("{key} of {}", link.name), wanted, found)).collect()
}

/// Whose port it is.
fn bridge(inside: &Netlink, link: &Link, settings: &Settings) -> Result<Option<Difference>, NetError> {
    let Some(wanted) = &settings.bridge else { return Ok(None) };
    let master = link.master.map(|master| inside.link_by_index(master)).transpose()?.flatten();
    let found = master.map_or_else(|| "none".to_owned(), |master| master.name);
    Ok((found != wanted.as_str()).then(|| Difference::new(format!("bridge of {}", link.name), wanted, found)))
}
