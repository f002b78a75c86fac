//! DEL: removes the owner's accepts.

use cni_plugin::{CniError, Detachment, Lock, Request};

use crate::config::Config;
use crate::plan::plan;
use crate::settings::Settings;

/// Removes the accepts; idempotent. The configuration and the previous result only show where to look first; without them
/// everything is searched for the owner.
pub fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    let owner = &detachment.owner;
    // Processes that a killed ADD has left at work must have ended before.
    let _alone = Lock::if_possible(Lock::of_attachment(owner))?;
    let hint = || plan(&Settings::resolve(&request.config).ok()?, owner, request.prev_result.as_ref()?).ok();
    Ok(request.config.firewall().remove(owner, hint().as_ref())?)
}
