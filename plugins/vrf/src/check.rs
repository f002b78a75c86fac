//! CHECK: the interface is in the VRF, which is up and has the configured table.

use cni_net::{NetNs, Netlink};
use cni_plugin::{Attachment, CniError, Difference, Request, verdict};

use crate::config::Config;
use crate::settings::Settings;

/// Compares the VRF and its port. The interface's addresses and routes are compared by the plugin that made it.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    request.require_result_of_add()?;
    let (inside, ifname) = (Netlink::open_in(&NetNs::open(&attachment.netns)?)?, &attachment.owner.ifname);
    let Some(vrf) = inside.link_by_name(settings.name.as_str())? else {
        return verdict(&[Difference::missing(format!("VRF {}", settings.name))]);
    };
    let thing = format!("VRF {}", settings.name);
    let mut differences = Vec::new();
    match (vrf.vrf_table, settings.table) {
        (None, _) => differences.push(Difference::new(&thing, "vrf", vrf.kind.as_deref().unwrap_or("physical"))),
        (Some(found), Some(wanted)) if found != wanted => {
            differences.push(Difference::new(format!("table of {thing}"), wanted, found));
        }
        _ => {}
    }
    if !vrf.up {
        differences.push(Difference::new(&thing, "up", "down"));
    }
    match inside.link_by_name(ifname.as_str())? {
        None => differences.push(Difference::missing(format!("interface {ifname}"))),
        Some(link) if link.master != Some(vrf.index) => {
            let master = link.master.map(|index| inside.link_by_index(index)).transpose()?.flatten();
            let found = master.map_or_else(|| "none".to_owned(), |master| master.name);
            differences.push(Difference::new(format!("VRF of interface {ifname}"), &settings.name, found));
        }
        Some(_) => {}
    }
    verdict(&differences)
}
