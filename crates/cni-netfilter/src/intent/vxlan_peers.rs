//! The hosts that may send VXLAN packets to this node. VXLAN authenticates nobody (RFC 7348, section 7): any host that can send a
//! packet to the port can send a frame into the network.

use std::fmt;
use std::net::IpAddr;

/// UDP packets to this port of the node from other addresses are dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanPeers {
    /// The UDP port.
    pub port: u16,
    /// Who may send to it.
    pub peers: Vec<IpAddr>,
}

/// `drop UDP to port 4789 unless from 192.0.2.1, 192.0.2.2`.
impl fmt::Display for VxlanPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peers: Vec<String> = self.peers.iter().map(IpAddr::to_string).collect();
        let peers = if peers.is_empty() { "nobody".to_owned() } else { peers.join(", ") };
        write!(f, "drop UDP to port {} unless from {peers}", self.port)
    }
}
