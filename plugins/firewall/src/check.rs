//! CHECK: compares the rules with the plan, and names each difference. Changes nothing.

use cni_plugin::{Attachment, CniError, Request, verdict};

use crate::config::Config;
use crate::plan::plan;
use crate::settings::Settings;

/// Compares, the ingress policy included.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    let wanted = plan(&settings, &attachment.owner, request.require_prev_result()?)?;
    verdict(&request.config.firewall().check(&wanted)?)
}
