//! DEL: closes what was opened for the owner.

use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Detachment, Request};

use crate::backend::firewalld_to_clean;
use crate::config::Config;
use crate::plan::plan;
use crate::settings::Settings;

/// Closes. The configuration and the previous result only show where to look first; without them everything is searched
/// for the owner.
pub fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    let owner = &detachment.owner;
    let settings = Settings::resolve(&request.config);
    let hint = match (&settings, &request.prev_result) {
        (Ok(settings), Some(prev)) => plan(settings, owner, prev).ok(),
        _ => None,
    };
    let filter = Netfilter::new();
    let removed = filter.remove_forwarding(owner, hint.as_ref());

    if let Some(firewalld) = settings.ok().as_ref().and_then(firewalld_to_clean) {
        firewalld.remove(removed.as_deref().unwrap_or_default())?;
        // What the Go plugin added is nobody's; what is another owner's by now isn't ours to take.
        let hinted = hint.map(|hint| hint.addresses).unwrap_or_default();
        firewalld.remove(&filter.unowned(&hinted)?)?;
    }
    Ok(removed.map(drop)?)
}
