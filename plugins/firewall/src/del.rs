//! DEL: closes what was opened for the owner.

use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Detachment, Request};

use crate::config::Config;
use crate::plan::plan;
use crate::settings::Settings;

/// Closes. The configuration and the previous result only show where to look first; without them everything is searched
/// for the owner.
pub fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    let owner = &detachment.owner;
    let hint = match (Settings::resolve(&request.config), &request.prev_result) {
        (Ok(settings), Some(prev)) => plan(&settings, owner, prev, true).ok(),
        _ => None,
    };
    Ok(Netfilter::new().remove_forwarding(owner, hint.as_ref())?)
}
