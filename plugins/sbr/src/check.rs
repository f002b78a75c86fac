//! CHECK: each address has its rule, and the table that it leads to has its routes.

use cni_net::{NetError, NetNs, Netlink, Route, RouteFilter};
use cni_plugin::{Attachment, CniError, Difference, Family, IpConfig, Request, addr, verdict};

use crate::config::Config;
use crate::plan::{addresses, gateway, hints, single};
use crate::settings::Settings;

/// Compares, whichever implementation made it. Which table an address has says its rule.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    let result = request.require_result_of_add()?;
    let ifname = &attachment.owner.ifname;
    let addresses = addresses(result, ifname)?;
    let inside = Netlink::open_in(&NetNs::open(&attachment.netns)?)?;
    // Rules need no interface; the routes of a configured table are another plugin's.
    let link = match (settings.table, inside.link_by_name(ifname.as_str())?) {
        (Some(_), _) => None,
        (None, Some(link)) => Some(link.index),
        (None, None) => {
            return verdict(&[Difference::missing(format!("interface {ifname} in {:?}", attachment.netns))]);
        }
    };
    let mut differences = Vec::new();
    for address in &addresses {
        let table = match table_of(&inside, address, settings.table)? {
            Ok(table) => table,
            Err(difference) => {
                differences.push(difference);
                continue;
            }
        };
        if let Some(link) = link {
            let gateway = gateway(&settings, address, &addresses, result);
            differences.extend(missing_routes(&inside, address, gateway, link, table)?);
        }
    }
    if let Some(link) = link.filter(|_| settings.source_hints) {
        for hint in hints(&addresses, link) {
            let name = format!("route {} dev {ifname} src {} in table main", hint.dst, source(&hint));
            differences.extend(missing(&inside, &hint, name)?);
        }
    }
    verdict(&differences)
}

fn table_of(inside: &Netlink, address: &IpConfig, wanted: Option<u32>) -> Result<Result<u32, Difference>, NetError> {
    let ip = address.address.ip();
    let rules = inside.rules(Family::of(ip))?;
    let found = rules.iter().find(|rule| rule.source == single(ip)).map(|rule| rule.table);
    Ok(match (found, wanted) {
        (Some(found), Some(wanted)) if found != wanted => {
            Err(Difference::new(format!("rule from {ip}"), format!("lookup {wanted}"), format!("lookup {found}")))
        }
        (Some(found), _) => Ok(found),
        (None, _) => Err(Difference::missing(format!("rule from {ip}"))),
    })
}

fn missing_routes(
    inside: &Netlink,
    address: &IpConfig,
    gateway: Option<std::net::IpAddr>,
    link: u32,
    table: u32,
) -> Result<Vec<Difference>, NetError> {
    let mut differences = Vec::new();
    if let Some(gateway) = gateway {
        let wanted = Route { table: Some(table), ..Route::new(addr::default_dst(gateway), Some(gateway), link) };
        differences.extend(missing(inside, &wanted, format!("route default via {gateway} in table {table}"))?);
    }
    // ADD found a route to the subnet if the interface had the address. That to a single address is in the table `local` only.
    let is_there = inside.addresses(link)?.iter().any(|found| found.network == address.address);
    for subnet in hints(std::slice::from_ref(address), link) {
        if is_there && subnet.dst.prefix() < Family::of(subnet.dst.ip()).bits() {
            let wanted = Route { table: Some(table), source: None, ..subnet };
            differences.extend(missing(inside, &wanted, format!("route {} in table {table}", wanted.dst))?);
        }
    }
    Ok(differences)
}

fn missing(inside: &Netlink, wanted: &Route, name: String) -> Result<Option<Difference>, NetError> {
    let family = Family::of(wanted.dst.ip());
    let table = Some(wanted.table.unwrap_or(254));
    let found = inside.routes(&RouteFilter { family, device: Some(wanted.device), table })?;
    Ok((!found.iter().any(|route| wanted.is_met_by(route))).then(|| Difference::missing(name)))
}

fn source(route: &Route) -> String {
    route.source.map(|source| source.to_string()).unwrap_or_default()
}
