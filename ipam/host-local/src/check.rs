//! CHECK: the attachment's addresses are still reserved for it.

use cni_plugin::{Attachment, CniError, Difference, Request, verdict};

use crate::config::Config;
use crate::pool::Address;
use crate::settings::{self, Settings};

/// Fails unless every address of the previous result that comes from these ranges is reserved for the owner, and at
/// least one is. Reads the reservations themselves.
pub(crate) fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config, Some(&attachment.args), request.version)?;
    let owner = &attachment.owner;
    let absent = || {
        let id = &owner.container_id;
        CniError::plugin(format!("host-local: Failed to find address added by container {id} ({})", owner.ifname))
    };
    let mut expected = Address::reported(request.prev_result.as_ref(), &owner.ifname);
    expected.retain(|ip| settings.set_of(*ip).is_some());
    let mut store = settings::place(request)?.open()?.ok_or_else(absent)?;
    let held = store.held_by(owner, &expected)?;
    let mut differences = Vec::new();
    for ip in expected.into_iter().filter(|ip| !held.contains(ip)) {
        let found = store.holder(ip)?.map_or("no reservation".to_owned(), |holder| format!("held by {holder}"));
        differences.push(Difference::new(ip, format!("reserved for {owner}"), found));
    }
    verdict(&differences)?;
    if held.is_empty() { Err(absent()) } else { Ok(()) }
}
