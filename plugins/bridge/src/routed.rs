//! The containers' subnet is routed through another link already: the classic clash with `docker0`.

use cni_net::{Family, NetError, Netlink, RouteFilter};
use cni_plugin::CniError;
use ipnetwork::IpNetwork;

use crate::config::Config;

/// The main routing table (`RT_TABLE_MAIN`).
const MAIN: u32 = 254;

/// A route through another link that takes packets for the containers away: to their subnet or to a part of it. A
/// wider one, the default route above all, gives way to the bridge's own.
///
/// Lists the main table: for the first ADD on a node, and STATUS.
fn elsewhere(socket: &Netlink, subnet: IpNetwork, own: Option<u32>) -> Result<Option<(IpNetwork, String)>, NetError> {
    let filter = RouteFilter { family: Family::of(subnet.ip()), device: None, table: Some(MAIN) };
    let takes_away = |dst: IpNetwork| dst.prefix() >= subnet.prefix() && subnet.contains(dst.ip());
    let routes = socket.routes(&filter)?;
    let Some(route) = routes.iter().find(|route| Some(route.device) != own && takes_away(route.dst)) else {
        return Ok(None);
    };
    let link = socket.link_by_index(route.device)?;
    Ok(Some((route.dst, link.map_or_else(|| format!("link {}", route.device), |link| link.name))))
}

fn message(subnet: IpNetwork, route: IpNetwork, link: &str) -> String {
    let network = IpNetwork::new(subnet.network(), subnet.prefix()).unwrap_or(subnet);
    format!(
        "the subnet {network} is already routed through {link} (route {route}): packets for the containers go there; \
         choose another subnet, or delete that route"
    )
}

/// Tells the operator on stderr. Not an error: that route may be about to go.
pub fn warn(socket: &Netlink, gateway: IpNetwork, own: u32) {
    if let Ok(Some((route, link))) = elsewhere(socket, gateway, Some(own)) {
        eprintln!("{}", message(gateway, route, &link));
    }
}

/// STATUS: says no to a subnet that is routed elsewhere.
pub fn refuse(socket: &Netlink, config: &Config, own: Option<u32>) -> Result<(), CniError> {
    for subnet in config.ipam.subnets() {
        if let Some((route, link)) = elsewhere(socket, subnet, own)? {
            return Err(CniError::plugin(message(subnet, route, &link)));
        }
    }
    Ok(())
}
