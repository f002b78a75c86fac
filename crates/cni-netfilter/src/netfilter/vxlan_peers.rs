//! Who may send VXLAN packets to this node. The rules have no owner: they follow from the node's VXLAN devices, and a call says
//! what all of these want together.
//!
//! They are made with nf_tables where the kernel has them, whatever the configured backend is, as the guard of 127.0.0.0/8 is;
//! else with iptables.

use cni_plugin::Difference;

use super::{FilterError, Netfilter};
use crate::intent::VxlanPeers;
use crate::iptables::Iptables;
use crate::nftables::Nftables;

impl Netfilter {
    /// Makes these the ports that are guarded and the peers that may send to them, and no others. Idempotent. Calls must not
    /// overlap.
    pub fn set_vxlan_peers(&self, wanted: &[VxlanPeers]) -> Result<(), FilterError> {
        match self.nftables().and_then(|nft| nft.set_vxlan_peers(wanted)) {
            // Nothing is left of what can't be made.
            Err(error) if error.is_absent() => match Iptables::find() {
                Err(_) if wanted.is_empty() => Ok(()),
                found => Ok(found?.set_vxlan_peers(wanted)?),
            },
            outcome => Ok(outcome?),
        }
    }

    /// What of the port's rule and its peers is missing or altered. Peers of other devices are no difference.
    pub fn check_vxlan_peers(&self, wanted: &VxlanPeers) -> Result<Vec<Difference>, FilterError> {
        match self.nftables().and_then(|nft| nft.check_vxlan_peers(wanted)) {
            Err(error) if error.is_absent() => Ok(Iptables::find()?.check_vxlan_peers(wanted)?),
            outcome => Ok(outcome?),
        }
    }

    /// Fails, naming what is missing, if neither nf_tables nor the tools of iptables are there.
    pub fn can_set_vxlan_peers(&self) -> Result<(), FilterError> {
        match self.nftables().and_then(Nftables::can_set_vxlan_peers) {
            Err(nftables) => Iptables::find().map(drop).map_err(|iptables| FilterError::NoBackend {
                iptables: Box::new(iptables.into()),
                nftables: Box::new(nftables),
            }),
            Ok(()) => Ok(()),
        }
    }
}
