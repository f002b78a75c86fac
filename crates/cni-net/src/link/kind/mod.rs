//! Kinds of links, a file each: what `ip link add NAME type KIND` takes.

mod bridge;
mod dummy;
mod ifb;
mod ipvlan;
mod macvlan;
mod veth;
mod vlan;
mod vrf;
mod vxlan;

use std::fmt;

use netlink_packet_route::link::LinkMessage;

pub use bridge::Bridge;
pub use dummy::Dummy;
pub use ifb::Ifb;
pub use ipvlan::{IpVlan, IpVlanMode};
pub use macvlan::{MacVlan, MacVlanMode};
pub use veth::{VethEnd, VethIndexes, VethSpec};
pub use vlan::VlanLink;
pub use vrf::Vrf;
pub use vxlan::VxLan;

/// A kind of link, with its own settings. Prints itself as `ip link add NAME type` takes it: `bridge vlan_filtering 1`.
pub trait LinkKind: fmt::Display {
    /// The kind's name, as the kernel and `ip` have it (`IFLA_INFO_KIND`).
    fn name(&self) -> &'static str;

    /// The kernel's feature that these settings need beside the kind itself, with its configuration option: that is what a
    /// kernel lacks which answers `EOPNOTSUPP` without a sentence.
    fn feature(&self) -> Option<&'static str> {
        None
    }

    /// The message that creates a link of this kind with this name: what rtnetlink's builder for the kind makes, without
    /// what every kind of link has (see [`LinkSpec`](super::LinkSpec)).
    fn message(&self, name: &str) -> LinkMessage;
}
