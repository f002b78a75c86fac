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

/// The subnets that host-local gives addresses of, as far as they can be read here.
fn subnets(config: &Config) -> Vec<IpNetwork> {
    let subnet_of = |range: &serde_json::Value| cni_plugin::json::get(range.as_object()?, "subnet").cloned();
    let ranges = config.ipam.ranges.as_array().into_iter().flatten();
    let of_ranges = ranges.filter_map(|set| set.as_array()).flatten().filter_map(subnet_of);
    let all = of_ranges.chain([config.ipam.subnet.clone()]);
    all.filter_map(|subnet| subnet.as_str()?.parse().ok()).collect()
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
    for subnet in subnets(config) {
        if let Some((route, link)) = elsewhere(socket, subnet, own)? {
            return Err(CniError::plugin(message(subnet, route, &link)));
        }
    }
    Ok(())
}
