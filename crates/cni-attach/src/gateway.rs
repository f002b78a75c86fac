//! The node as the containers' gateway: gateways that can't be an address of the node.

use std::net::IpAddr;

use cni_plugin::IpConfig;
use ipnetwork::IpNetwork;

/// Why the node can't have the gateway's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    /// Node and container would have the same address.
    #[error(
        "gateway {0} is the container's own address, and the node gets the gateway's: configure another one in \"ipam\""
    )]
    Own(IpAddr),
    /// No host can have it.
    #[error("gateway {gateway} is the broadcast address of {address}'s subnet: configure another one in \"ipam\"")]
    Broadcast {
        /// The gateway.
        gateway: IpAddr,
        /// The container's address.
        address: IpNetwork,
    },
}

/// Refuses a gateway with which these addresses of a container would reach no host.
///
/// # Errors
/// [`GatewayError`].
pub fn refuse_unusable(ips: &[IpConfig]) -> Result<(), GatewayError> {
    for (address, gateway) in ips.iter().filter_map(|ip| Some((ip.address, ip.gateway?))) {
        if ips.iter().any(|own| own.address.ip() == gateway) {
            return Err(GatewayError::Own(gateway));
        }
        if is_broadcast(address, gateway) {
            return Err(GatewayError::Broadcast { gateway, address });
        }
    }
    Ok(())
}

/// RFC 3021: /31 and /32 have none.
fn is_broadcast(subnet: IpNetwork, ip: IpAddr) -> bool {
    matches!(subnet, IpNetwork::V4(subnet) if subnet.prefix() <= 30 && IpAddr::from(subnet.broadcast()) == ip)
}
