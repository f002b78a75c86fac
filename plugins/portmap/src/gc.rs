//! GC: withdraws what attachments of this network publish that the runtime no longer knows.

use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Owner, Request};

use crate::config::Config;

/// Collects from both backends.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    Ok(Netfilter::new().retain_ports(&request.network, valid)?)
}
