//! CHECK: compares the rules with the plan, and names each difference. Changes nothing.

use cni_netfilter::Netfilter;
use cni_plugin::{Attachment, CniError, Request, verdict};

use crate::backend::{Chosen, choose};
use crate::config::Config;
use crate::plan::plan;
use crate::settings::Settings;

/// Compares, the ingress policy included.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    let wanted = plan(&settings, &attachment.owner, request.require_prev_result()?)?;
    if wanted.addresses.is_empty() {
        return Ok(());
    }
    let filter = Netfilter::new();
    let Chosen { firewalld, backend } = choose(&settings, &filter)?;
    let mut differences = filter.check_forwarding(backend, &wanted)?;
    if let Some(firewalld) = firewalld {
        differences.extend(firewalld.check(&wanted.addresses)?);
    }
    verdict(&differences)
}
