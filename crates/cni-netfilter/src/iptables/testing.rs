//! What the unit tests share.

use cni_plugin::Owner;

/// An owner on the network of `testdata`.
pub(super) fn owner(id: &str, ifname: &str) -> Owner {
    Owner { network: "test-net".parse().unwrap(), container_id: id.parse().unwrap(), ifname: ifname.parse().unwrap() }
}
