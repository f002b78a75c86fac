//! GC: removes the ifbs of attachments of this network that the runtime no longer knows.

use cni_net::Netlink;
use cni_plugin::{CniError, Owner, Request};

use crate::config::Config;
use crate::ifb;

/// Removes the ifbs. Limits on a veth pair go with the pair, which is the plugin's that made it.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    Ok(ifb::retain(&Netlink::open()?, &request.network, valid)?)
}
