//! What every CNI plugin that makes an interface does, once.
//!
//! An ADD is the same few steps in each of them, and `add.rs` of each shows them in this order:
//!
//! 1. Refuse what can't be done: settings ([`mtu`], [`masquerade`], [`ipam`]), the namespaces ([`Sides`]), a second ADD.
//! 2. Start IPAM; its DEL is registered before. An IPAM plugin that needs the link is started after it ([`ipam`]).
//! 3. The link: a veth pair with one end on the node ([`pair`]), or one link in the container's namespace ([`single`]),
//!    which may be on another link ([`parent`]). The owner's mark is on it ([`mark`]): DEL and GC find it by that alone.
//! 4. Addresses and routes ([`layer3`]), on the node's side too where the node is the gateway ([`gateway`],
//!    [`forwarding`]).
//! 5. The result ([`result`]).
//!
//! CHECK compares all of that ([`check`]); DEL and GC remove it and release the addresses last ([`removal`]).
//! `examples/single.rs` is a whole plugin of under 100 lines.

pub mod check;
pub mod forwarding;
pub mod gateway;
pub mod ipam;
pub mod layer3;
pub mod mac;
pub mod made_vlan;
pub mod mark;
pub mod masquerade;
pub mod mtu;
pub mod pair;
pub mod parent;
pub mod print;
pub mod removal;
pub mod result;
pub mod shim;
pub mod sides;
pub mod single;
pub mod vxlan_device;

pub use check::LinkCheck;
pub use layer3::{Layer3, Layer3Error, PointToPoint};
pub use masquerade::{MasqueradeError, MasqueradeSettings};
pub use parent::{Parent, ParentSettings};
pub use print::Place;
pub use sides::{ContainerSide, Sides};
