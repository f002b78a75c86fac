//! The node's end of the container's link: while it exists, the container does.

use cni_net::{Link, NetError, Netlink, pair};
use cni_netfilter::PortForwards;
use cni_plugin::{CniResult, Owner};

/// The veth that the owner's plugin made, or that the previous result names. `None` if the container is attached in
/// another way (macvlan, a moved device), or is gone.
pub fn towards(socket: &Netlink, owner: &Owner, told: &CniResult) -> Result<Option<Link>, NetError> {
    pair::find_or_told(socket, owner, told)
}

/// Writes the link into the plan.
pub fn note(wanted: &mut [PortForwards], link: Option<&Link>) {
    for forwards in wanted {
        forwards.link = link.map(|link| link.index);
    }
}
