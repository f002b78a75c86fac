//! GC: closes what was opened for attachments of this network that the runtime no longer knows.

use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Owner, Request};

use crate::config::Config;

/// Collects from both backends.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    Ok(Netfilter::new().retain_forwarding(&request.network, valid)?)
}
