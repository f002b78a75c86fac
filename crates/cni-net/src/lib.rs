//! The kernel's network, for CNI plugins: namespaces, links, addresses, routes and sysctls behind blocking verbs.
//!
//! A [`Netlink`] is one route socket. It belongs to the namespace it was opened in for ever, whatever namespace the
//! thread enters later, so a plugin opens one for the host and one for the container and never has to switch:
//!
//! ```no_run
//! # use cni_net::{NetNs, Netlink, VethEnd, VethSpec};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let container = NetNs::open("/run/netns/blue".as_ref())?;
//! let host = Netlink::open()?;
//! let veth = VethSpec::new(VethEnd::named("veth0".parse()?), VethEnd::named("eth0".parse()?), &container);
//! let made = host.create_veth(&veth)?;
//! let inside = Netlink::open_in(&container)?;
//! inside.add_address(made.peer, "10.0.0.5/24".parse()?, &Default::default())?;
//! # Ok(()) }
//! ```
//!
//! Only sysctls need the thread itself in the namespace ([`NetNs::run`]), for `/proc/sys/net` shows that of the reader.

mod address;
mod error;
mod everywhere;
pub mod forwarding;
mod layer3;
mod link;
pub mod localnet;
pub mod mac;
pub mod mtu;
mod netlink;
mod netns;
pub mod pair;
mod point_to_point;
mod route;
pub mod sysctl;
mod sysfs;

pub use address::{Address, AddressOptions};
pub use error::{KernelError, LinkId, NetError, NoIpv6, Operation, no_ipv6};
pub use everywhere::addresses_everywhere;
pub use forwarding::ForwardingError;
pub use layer3::{Layer3, Layer3Error};
pub use link::{
    BridgeSpec, BridgeState, FdbEntry, Link, LinkChange, OperState, PortChange, PortForwarding, PortState, VethEnd,
    VethIndexes, VethSpec, Vlan,
};
pub use mac::{mac_of_link, random_mac};
pub use mtu::MtuError;
pub use netlink::Netlink;
pub use netns::{NetNs, NetNsError};
pub use pair::{Pair, PairError, PairSpec};
pub use point_to_point::PointToPoint;
pub use route::{Family, Route, RouteFilter, RouteKind, RouteLookup};
pub use sysctl::SysctlError;
pub use sysfs::mac_was_set;
