//! GC: closes what was opened for attachments of this network that the runtime no longer knows.

use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Owner, Request};

use crate::backend::firewalld_to_clean;
use crate::config::Config;
use crate::settings::Settings;

/// Collects from every backend.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config);
    let removed = Netfilter::new().retain_forwarding(&request.network, valid)?;
    if let Some(firewalld) = settings.ok().filter(|_| !removed.is_empty()).as_ref().and_then(firewalld_to_clean) {
        firewalld.remove(&removed)?;
    }
    Ok(())
}
