//! The kernel's network, for CNI plugins: blocking calls for namespaces, links, addresses, routes, policy rules, queueing
//! disciplines and sysctls. Nothing here knows of attachments, results or IPAM.
//!
//! A [`Netlink`] is one route socket. It belongs to the namespace that it was opened in, also after the
//! thread has entered another one, so a plugin opens one for the host and one for the container and never has to switch:
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
//! Only sysctls need the thread itself in the namespace ([`NetNs::run`]), because `/proc/sys/net` shows that of the reader.

mod address;
mod errno;
mod error;
mod events;
pub mod forwarding;
mod link;
pub mod localnet;
mod neighbour;
mod netlink;
mod netns;
mod netns_id;
mod route;
mod rule;
pub mod sysctl;
mod tc;

pub use address::{Address, AddressOptions, addresses_in_all_namespaces, no_ipv6, unusable_host};
pub use error::{IPV6_MIN_MTU, KernelError, LinkId, NetError, NoIpv6, Operation};
pub use events::{Changes, Events};
pub use forwarding::ForwardingError;
pub use link::kind::{
    Bridge, Dummy, Ifb, IpVlan, IpVlanMode, LinkKind, MacVlan, MacVlanMode, VethEnd, VethIndexes, VethSpec, VlanLink,
    Vrf, VxLan,
};
pub use link::{
    BridgeState, FdbEntry, Link, LinkChange, LinkSpec, OperState, PortChange, PortState, StpState, TunState, Vlan,
    VxlanFdbEntry, mac_of, mac_of_link, mac_was_set, random_mac, unusable_mac,
};
pub use neighbour::Neighbour;
pub use netlink::Netlink;
pub use netns::{NetNs, NetNsError};
pub use route::{NextHop, NextHopState, Route, RouteFilter, RouteKind, RouteLookup, RouteQuery};
pub use rule::Rule;
pub use sysctl::SysctlError;
pub use tc::{Place, Qdisc, QdiscKind, Tbf};
