//! How traffic gets to the other nodes. Each backend compares what the kernel has with what a view asks for, and changes the difference: it
//! remembers nothing that it could not find again after a restart.

mod bridge;
mod host_gw;
mod routes;
mod vxlan;

use cni_net::{NetError, Netlink};

use crate::network::Values;
use crate::settings;
use crate::view::{Held, View};

/// What gets traffic to the other nodes.
pub trait Backend {
    /// To which node's address traffic for a subnet goes at present, as an earlier process has left it.
    ///
    /// # Errors
    /// The kernel's.
    fn held(&mut self) -> Result<Held, NetError>;

    /// Makes the node what the view asks for. Idempotent; every part is tried.
    fn apply(&mut self, netlink: &Netlink, view: &View) -> Done;

    /// What the network's configuration takes of it; none as long as that is not known.
    fn values(&self, view: &View) -> Option<Values>;

    /// Links or addresses of this node have changed: what was concluded from them is void.
    fn forget(&mut self) {}
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// How many entries there are now.
    pub entries: usize,
    /// How many were added or removed.
    pub changes: usize,
    /// What is not as it should be, in sentences.
    pub problems: Vec<String>,
}

impl Done {
    /// Counts one change, or adds why it failed to the problems.
    fn count<E: std::fmt::Display>(&mut self, outcome: Result<(), E>) {
        match outcome {
            Ok(()) => self.changes += 1,
            Err(error) => self.problems.push(error.to_string()),
        }
    }
}

/// The configured backend.
///
/// # Errors
/// The kernel's.
pub fn open(backend: &settings::Backend) -> Result<Box<dyn Backend>, NetError> {
    Ok(match backend {
        settings::Backend::HostGw { protocol } => Box::new(host_gw::HostGw::open(*protocol)?),
        settings::Backend::Vxlan(vxlan) => Box::new(vxlan::Routed::open(*vxlan)?),
        settings::Backend::Bridge(bridge) => Box::new(bridge::Peers::new(bridge)),
    })
}
