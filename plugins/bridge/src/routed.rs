//! The containers' subnet is routed through another link already: the classic clash with `docker0`.

use cni_net::{Family, NetError, Netlink, Route, RouteFilter};
use cni_plugin::CniError;
use ipnetwork::IpNetwork;

use crate::config::Config;

/// The main routing table (`RT_TABLE_MAIN`).
const MAIN: u32 = 254;

/// What another link has to do with a subnet.
enum Clash {
    /// Its route is to the subnet or to a part of it, and takes packets for the containers away. A wider one, the
    /// default route above all, gives way to the bridge's own.
    TakesAway(IpNetwork, String),
    /// Its own subnet, by an address of the node, is a wider one: the bridge's route takes a part of its packets away.
    Loses(IpNetwork, String),
}

/// Lists the main table: for the first ADD on a node, and STATUS.
fn clash(socket: &Netlink, subnet: IpNetwork, own: Option<u32>) -> Result<Option<Clash>, NetError> {
    let filter = RouteFilter { family: Family::of(subnet.ip()), device: None, table: Some(MAIN) };
    let mut routes = socket.routes(&filter)?;
    routes.retain(|route| Some(route.device) != own);
    let takes_away = |route: &&Route| route.dst.prefix() >= subnet.prefix() && subnet.contains(route.dst.ip());
    // Routes of daemons to the networks of other nodes are meant to be wider.
    let loses = |route: &&Route| {
        route.by_kernel
            && route.gateway.is_none()
            && route.dst.prefix() < subnet.prefix()
            && route.dst.contains(subnet.ip())
    };
    let name = |route: &Route| -> Result<String, NetError> {
        let link = socket.link_by_index(route.device)?;
        Ok(link.map_or_else(|| format!("link {}", route.device), |link| link.name))
    };
    if let Some(route) = routes.iter().find(takes_away) {
        return Ok(Some(Clash::TakesAway(route.dst, name(route)?)));
    }
    routes.iter().find(loses).map(|route| Ok(Clash::Loses(route.dst, name(route)?))).transpose()
}

fn message(subnet: IpNetwork, clash: &Clash) -> String {
    let network = IpNetwork::new(subnet.network(), subnet.prefix()).unwrap_or(subnet);
    match clash {
        Clash::TakesAway(route, link) => format!(
            "the subnet {network} is already routed through {link} (route {route}): packets for the containers go there; \
             choose another subnet, or delete that route"
        ),
        Clash::Loses(route, link) => format!(
            "the subnet {network} is a part of {route}, which is on {link}: what has an address of {network} there can't \
             be reached any more; choose another subnet"
        ),
    }
}

/// Tells the operator on stderr. Not an error: that route may be about to go.
pub fn warn(socket: &Netlink, gateway: IpNetwork, own: u32) {
    if let Ok(Some(clash)) = clash(socket, gateway, Some(own)) {
        eprintln!("{}", message(gateway, &clash));
    }
}

/// STATUS: says no to a subnet that is routed elsewhere, as the containers could not be reached.
pub fn refuse(socket: &Netlink, config: &Config, own: Option<u32>) -> Result<(), CniError> {
    for subnet in config.ipam.subnets() {
        if let Some(clash @ Clash::TakesAway(..)) = clash(socket, subnet, own)? {
            return Err(CniError::plugin(message(subnet, &clash)));
        }
    }
    Ok(())
}
