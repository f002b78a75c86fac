//! The closed door: of what arrives for a container from elsewhere than its own link, only replies and published ports pass.

use std::fmt;
use std::net::IpAddr;

use cni_plugin::{IfName, Owner};

/// New connections to these addresses pass only from behind `link`, or to a published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedOnly {
    /// Whose addresses they are.
    pub owner: Owner,
    /// The attachment's addresses, of either family.
    pub addresses: Vec<IpAddr>,
    /// The node's link that the container is behind: its bridge, or ptp's own link. Its neighbours there are not kept away.
    pub link: IfName,
}

/// `drop new connections to 10.1.0.2 that arrive by another interface than cni0, unless to a published port`.
impl fmt::Display for PublishedOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for address in &self.addresses {
            let link = &self.link;
            writeln!(
                f,
                "drop new connections to {address} that arrive by another interface than {link}, unless to a published port"
            )?;
        }
        Ok(())
    }
}
