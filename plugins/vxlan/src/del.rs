//! DEL: gives the device up, which goes with its last attachment.

use cni_attach::vxlan_device;
use cni_net::Netlink;
use cni_plugin::{CniError, Detachment, Request};

use crate::config::Config;
use crate::{device, settings};

/// Removes the owner's mark and, with the last one, the device and the guard of its port. The MTU of the container's link goes with
/// the link, which is the plugin's that made it.
pub fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    let node = Netlink::open()?;
    let _turn = vxlan_device::turn()?;
    device::release(&node, &detachment.owner, settings::vni(&request.config).ok())
}
