//! DEL: removes the rules and what they lead to.

use std::net::IpAddr;

use cni_net::{Link, NetError, NetNs, Netlink, RouteFilter, Rule};
use cni_plugin::{CniError, Detachment, Family, Request};

use crate::config::Config;
use crate::plan::PROTOCOL;
use crate::settings::Settings;

/// Removes the rules of the addresses that the interface has, or had according to the result of ADD, and the routes of their
/// tables. Where both have no address, it removes this plugin's rules whose address no link of the namespace has. Idempotent;
/// if the namespace no longer exists, there is nothing to remove.
pub fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    let Some(namespace) = NetNs::open_if_there(detachment.netns.as_deref())? else { return Ok(()) };
    let ifname = &detachment.owner.ifname;
    let inside = Netlink::open_in(&namespace)?;
    let link = inside.link_by_name(ifname.as_str())?;
    let mut addresses = link.as_ref().map(|link| of_link(&inside, link)).transpose()?.unwrap_or_default();
    let reported = request.prev_result.iter().flat_map(|result| result.ips_of(ifname));
    addresses.extend(reported.map(|ip| ip.address.ip()));
    let others = if addresses.is_empty() { Some(of_all(&inside)?) } else { None };
    let is_its = |rule: &Rule| match &others {
        Some(others) => rule.protocol == PROTOCOL && !others.contains(&rule.source.ip()),
        None => addresses.contains(&rule.source.ip()),
    };
    let configured = Settings::resolve(&request.config).ok().and_then(|settings| settings.table);
    for family in Family::ALL {
        let rules = match inside.rules(family) {
            // Then there never was a rule.
            Err(NetError::Unsupported { .. }) => continue,
            other => other?,
        };
        let single = |rule: &&Rule| rule.source.prefix() == family.bits();
        let in_table = |rule: &&Rule| configured.is_none_or(|table| rule.table == table);
        for rule in rules.iter().filter(single).filter(in_table).filter(|rule| is_its(rule)) {
            inside.delete_rule(rule)?;
            if let Some(link) = link.as_ref().filter(|_| configured.is_none()) {
                empty(&inside, family, link, rule.table)?;
            }
        }
    }
    Ok(())
}

fn empty(inside: &Netlink, family: Family, link: &Link, table: u32) -> Result<(), NetError> {
    for route in inside.routes(&RouteFilter { family, device: Some(link.index), table: Some(table) })? {
        inside.delete_route(&route)?;
    }
    Ok(())
}

fn of_link(inside: &Netlink, link: &Link) -> Result<Vec<IpAddr>, NetError> {
    Ok(inside.addresses(link.index)?.iter().map(|address| address.network.ip()).collect())
}

fn of_all(inside: &Netlink) -> Result<Vec<IpAddr>, NetError> {
    let mut addresses = Vec::new();
    for link in inside.links()? {
        addresses.extend(of_link(inside, &link)?);
    }
    Ok(addresses)
}
