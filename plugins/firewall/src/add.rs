//! ADD: accepts the container's traffic and keeps the bridge's policy.

use cni_plugin::{Attachment, CniError, CniResult, Lock, Request, Undo};

use crate::config::Config;
use crate::plan::plan;
use crate::settings::Settings;

/// Adds the rules and returns the previous result.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let settings = Settings::resolve(&request.config)?;
    let prev = request.require_prev_result()?;
    let wanted = plan(&settings, &attachment.owner, prev)?;

    // 2. Processes that a killed call has left at work must have ended before this call changes anything.
    Lock::hold_attachment(&attachment.owner, undo)?;

    // 3. The rules, and firewalld's zone.
    request.config.firewall().add(&wanted, undo)?;
    Ok(prev.clone())
}
