//! GC: withdraws what attachments of this network publish that the runtime no longer knows.

use cni_net::Netlink;
use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Owner, Request};

use crate::config::Config;

/// Collects from both backends.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let filter = Netfilter::new();
    filter.retain_ports(&request.network, valid)?;
    let socket = Netlink::open()?;
    // A name that can't be asked for stays.
    Ok(filter.retain_guards(|interface| !matches!(socket.link_by_name(interface), Ok(None)))?)
}
