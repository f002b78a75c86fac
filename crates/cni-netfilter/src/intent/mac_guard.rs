//! The check of the source MAC addresses of what a container sends.

use std::fmt;

use cni_plugin::{IfName, MacAddr, Owner};

/// Frames that arrive by a bridge's port from another source address than the container's are dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacGuard {
    /// Whose check it is.
    pub owner: Owner,
    /// The port: the host's end of the container's veth pair.
    pub port: IfName,
    /// The container's hardware address.
    pub mac: MacAddr,
}

/// `drop frames from veth0 whose source is not 02:00:00:00:00:01`.
impl fmt::Display for MacGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "drop frames from {} whose source is not {}", self.port, self.mac)
    }
}

/// What is known of a [`MacGuard`] that is to be removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MacGuardHint {
    /// The port, if it is known.
    pub port: Option<IfName>,
    /// The address, if it is known.
    pub mac: Option<MacAddr>,
}
