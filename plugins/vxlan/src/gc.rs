//! GC: gives up the devices for attachments of this network that the runtime no longer knows.

use cni_attach::vxlan_device;
use cni_net::Netlink;
use cni_plugin::{CniError, Owner, Request};

use crate::config::Config;
use crate::device;

/// Removes their marks, devices that have none left, and what the packet filter has for devices that are gone.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let node = Netlink::open()?;
    let _turn = vxlan_device::turn()?;
    device::retain(&node, &request.network, valid)
}
