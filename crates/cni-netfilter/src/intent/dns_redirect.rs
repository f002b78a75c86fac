//! The redirection of what containers ask at port 53 to the resolver of the node.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use cni_plugin::{IfName, Owner};

/// What one attachment sends to port 53, UDP and TCP, of a server goes to the resolver instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsRedirect {
    /// Whose rules they are.
    pub owner: Owner,
    /// The node's interface by which the attachment's packets arrive.
    pub interface: IfName,
    /// Who is redirected where; client and resolver are of one family.
    pub targets: Vec<DnsTarget>,
    /// Whatever server is asked, not only the resolver's own address.
    pub intercept: bool,
}

/// A client and its resolver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsTarget {
    /// The container's address.
    pub client: IpAddr,
    /// Where the resolver listens: an address of the node.
    pub resolver: SocketAddr,
}

impl DnsRedirect {
    /// The port at which servers are asked.
    pub const PORT: u16 = 53;
}

impl fmt::Display for DnsRedirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for DnsTarget { client, resolver } in &self.targets {
            let server = if self.intercept { "any server".to_owned() } else { resolver.ip().to_string() };
            let (port, interface) = (Self::PORT, &self.interface);
            writeln!(f, "redirect what {client} asks {server} at port {port} through {interface} to {resolver}")?;
        }
        Ok(())
    }
}
