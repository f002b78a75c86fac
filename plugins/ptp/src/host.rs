//! The node's end of the link: its addresses, the routes to the container, and forwarding.

use cni_net::{AddressOptions, Family, NetError, Netlink, RouteFilter, forwarding};
use cni_plugin::{CniError, Difference};

use crate::plan::Plan;

/// Gives the host's end the gateways' addresses and the node its routes to the container, and lets it forward. The
/// addresses and routes go when the link does; forwarding stays, as others need it too.
pub fn apply(socket: &Netlink, index: u32, plan: &Plan) -> Result<(), CniError> {
    for family in plan.families() {
        forwarding::ensure(family)?;
    }
    // The gateway must answer at once, not after a second of duplicate address detection. It is the only one there.
    let options = AddressOptions { no_dad: true, ..AddressOptions::default() };
    for gateway in &plan.gateways {
        socket.add_address(index, *gateway, &options)?;
    }
    for route in plan.host_routes(index) {
        match socket.add_route(&route) {
            // Two addresses may be one in two subnets.
            Ok(()) | Err(NetError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What of the node's end isn't as [`apply`] left it.
pub fn check(socket: &Netlink, name: &str, index: u32, plan: &Plan) -> Result<Vec<Difference>, CniError> {
    let mut differences = Vec::new();
    let present = socket.addresses(index)?;
    for gateway in &plan.gateways {
        if !present.iter().any(|found| found.network == *gateway) {
            differences.push(Difference::missing(format!("address {gateway} of {name}")));
        }
    }
    for family in plan.families() {
        differences.extend(forwarding::check(family)?);
        let present = socket.routes(&RouteFilter { family, device: Some(index), table: None })?;
        for wanted in plan.host_routes(index).iter().filter(|route| Family::of(route.dst.ip()) == family) {
            if !present.iter().any(|found| wanted.is_met_by(found)) {
                differences.push(Difference::missing(format!("route {} dev {name}", wanted.dst.ip())));
            }
        }
    }
    Ok(differences)
}
