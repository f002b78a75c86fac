//! CHECK: are the attachment's addresses still reserved for it?

use cni_plugin::{Attachment, CniError, CniResult, Difference, Request, verdict};

use crate::address::Address;
use crate::config::Config;
use crate::range::RangeSet;
use crate::settings::Settings;

/// Fails unless every address of the previous result that comes from these ranges is reserved for the owner, and at
/// least one is.
pub(crate) fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config, Some(&attachment.args), request.version)?;
    let owner = &attachment.owner;
    let absent = || {
        let id = &owner.container_id;
        CniError::plugin(format!("host-local: Failed to find address added by container {id} ({})", owner.ifname))
    };
    let mut store = crate::place(request)?.open()?.ok_or_else(absent)?;
    let held = store.held_by(owner)?;
    let mut differences = Vec::new();
    for ip in expected(request.prev_result.as_ref(), attachment.owner.ifname.as_str(), &settings.sets) {
        if !held.contains(&ip) {
            let found = store.holder(ip)?.map_or("no reservation".to_owned(), |holder| format!("held by {holder}"));
            differences.push(Difference::new(ip, format!("reserved for {owner}"), found));
        }
    }
    verdict(&differences)?;
    if held.is_empty() { Err(absent()) } else { Ok(()) }
}

/// The addresses of the result that this plugin gave for this interface.
fn expected(result: Option<&CniResult>, ifname: &str, sets: &[RangeSet]) -> Vec<Address> {
    let Some(result) = result else { return Vec::new() };
    let on_other_interface = |index: i64| {
        let interface = usize::try_from(index).ok().and_then(|index| result.interfaces.get(index));
        interface.is_some_and(|interface| interface.name != ifname)
    };
    let ours = result.ips.iter().filter(|ip| !ip.interface.is_some_and(on_other_interface));
    ours.map(|ip| Address::from(ip.address.ip()))
        .filter(|ip| sets.iter().any(|set| set.range_of(*ip).is_some()))
        .collect()
}
