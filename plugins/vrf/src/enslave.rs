//! Putting a link into a VRF and taking it out, with its addresses and routes.
//!
//! The kernel takes the link down and up again meanwhile (`cycle_netdev` in drivers/net/vrf.c). It makes the routes to the link's
//! own subnets again, in the table that counts then. It drops all other routes, and IPv6 addresses unless
//! `keep_addr_on_down` is set.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use cni_net::{Address, AddressOptions, Link, LinkChange, LinkSpec, NetError, NetNs, Netlink, Route, RouteFilter, Vrf};
use cni_plugin::{CniError, Family, Owner, Undo};

use crate::settings::{RESERVED_TABLES, Settings};

/// What the marks of all attachments on their VRF begin with.
const MARK: &str = "cni-vrf-";
/// `RT_TABLE_MAIN`.
const MAIN: u32 = 254;

/// The attachment's mark: an alternative name of its VRF, which several attachments of a container can share.
pub fn mark(owner: &Owner) -> String {
    format!("{MARK}{}", owner.key())
}

/// The VRF of this name, made and brought up if it isn't there. Pushes its deletion to `undo` before it is made, for the kernel's
/// answer can get lost; a VRF that another attachment has marked meanwhile stays.
pub fn ensure(inside: &Rc<Netlink>, netns: &Path, settings: &Settings, undo: &mut Undo) -> Result<Link, CniError> {
    if let Some(found) = inside.link_by_name(settings.name.as_str())? {
        let Some(table) = found.vrf_table else {
            return Err(CniError::plugin(format!("vrfname: {} of the container is no VRF", settings.name)));
        };
        if let Some(wanted) = settings.table.filter(|wanted| *wanted != table) {
            return Err(CniError::plugin(format!(
                "table: VRF {} already exists with routing table {table}, and {wanted} is configured",
                settings.name
            )));
        }
        return Ok(found);
    }
    let table = match settings.table {
        Some(table) => table,
        None => first_unused(&inside.links()?),
    };
    let is_anothers = Rc::new(Cell::new(false));
    let (name, keep) = (settings.name.clone(), is_anothers.clone());
    let delete = move |socket: &Netlink| {
        let made = socket.link_by_name(name.as_str())?.filter(|vrf| !keep.get() && !is_marked(vrf));
        made.map_or(Ok(()), |vrf| socket.delete_link(vrf.index).map(drop))
    };
    let (socket, path) = (inside.clone(), netns.to_owned());
    undo.push(format!("VRF {}", settings.name), move || insist(&socket, &path, &delete));
    let made = inside.create_link(&LinkSpec { up: true, ..LinkSpec::new(settings.name.clone(), &Vrf { table }) });
    is_anothers.set(matches!(made, Err(NetError::Exists { .. })));
    Ok(made?)
}

/// Takes something back; if that fails, once more with a new socket: one that has failed once stays without answers.
pub fn insist(
    inside: &Netlink,
    netns: &Path,
    take_back: &dyn Fn(&Netlink) -> Result<(), NetError>,
) -> Result<(), NetError> {
    take_back(inside).or_else(|_| take_back(&Netlink::open_in(&NetNs::open(netns)?)?))
}

/// The first table that no VRF of these links has, and that isn't the kernel's.
fn first_unused(links: &[Link]) -> u32 {
    let is_used = |table: &u32| links.iter().any(|link| link.vrf_table == Some(*table));
    (1..u32::MAX).find(|table| !RESERVED_TABLES.contains(table) && !is_used(table)).unwrap_or(u32::MAX)
}

/// Makes the link a port of the VRF, or of none, and gives it its addresses and routes back: those of the table `from` are in
/// the table `to` then.
pub fn transfer(inside: &Netlink, link: &Link, vrf: Option<u32>, (from, to): (u32, u32)) -> Result<(), NetError> {
    let is_lost = |address: &Address| address.network.is_ipv6() && address.permanent && !address.link_local;
    let addresses: Vec<_> = inside.addresses(link.index)?.into_iter().filter(is_lost).collect();
    let mut routes: Vec<Route> = Vec::new();
    for family in Family::ALL {
        routes.extend(inside.routes(&RouteFilter { family, device: Some(link.index), table: None })?);
    }
    routes.retain(|route| !route.by_kernel && !route.advertised);
    // A next hop can be reached by a route without one.
    routes.sort_by_key(|route| route.gateway.is_some());

    inside.change_link(link.index, &LinkChange { master: Some(vrf), ..LinkChange::default() })?;
    for address in addresses {
        // It was usable before, so there is nothing to detect.
        inside.add_address(link.index, address.network, &AddressOptions { no_dad: true, ..Default::default() })?;
    }
    for route in routes {
        let table = if route.table.unwrap_or(MAIN) == from { Some(to) } else { route.table };
        match inside.add_route(&Route { table, ..route }) {
            // With an address the kernel makes the route to its subnet again.
            Ok(()) | Err(NetError::Exists { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Puts the link into the VRF.
pub fn join(inside: &Netlink, link: &Link, vrf: &Link) -> Result<(), NetError> {
    transfer(inside, link, Some(vrf.index), (MAIN, vrf.vrf_table.unwrap_or(MAIN)))
}

/// Takes the link out of the VRF.
pub fn leave(inside: &Netlink, link: &Link, vrf: &Link) -> Result<(), NetError> {
    transfer(inside, link, None, (vrf.vrf_table.unwrap_or(MAIN), MAIN))
}

/// True if an attachment's mark is on the VRF.
pub fn is_marked(vrf: &Link) -> bool {
    vrf.altnames.iter().any(|name| name.starts_with(MARK))
}
