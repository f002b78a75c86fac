//! The node forwards between its links, a setting for each family: what every plugin that is a gateway needs.

use std::collections::BTreeSet;

use cni_plugin::Family;

use crate::error::NetError;
use crate::netlink::Netlink;
use crate::route::RouteFilter;
use crate::sysctl::{self, SysctlError};

/// "Take router advertisements although this node forwards" (`accept_ra` in Documentation/networking/ip-sysctl.rst).
const ACCEPT_RA_OF_ROUTERS: &str = "2";
/// "Take router advertisements unless this node forwards."
const ACCEPT_RA_OF_HOSTS: &str = "1";

/// Why the node can't be made to forward.
#[derive(Debug, thiserror::Error)]
pub enum ForwardingError {
    /// A setting can't be read or written.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The routes and addresses that router advertisements brought can't be listed.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A link would lose what router advertisements brought.
    #[error(
        "IPv6 forwarding is off; switching it on would remove the routes from router advertisements on {link}, because its \
         accept_ra cannot be set to 2: {source}"
    )]
    AcceptRa {
        /// The link's name.
        link: String,
        /// Why it can't.
        source: SysctlError,
    },
}

/// The setting, as [`sysctl::read`] takes it.
pub fn path(family: Family) -> &'static str {
    match family {
        Family::V4 => "net/ipv4/ip_forward",
        Family::V6 => "net/ipv6/conf/all/forwarding",
    }
}

/// Lets the node forward. Idempotent; never taken back, as others need it too. `socket` is of the calling thread's
/// namespace, and only used when IPv6 forwarding is switched on.
///
/// A node that forwards takes no router advertisement any more and loses the routes that it has from them
/// (`rt6_purge_dflt_routers` in net/ipv6/route.c), unless the link's `accept_ra` is 2. So links that have such routes or
/// addresses get that value first, which is reported on stderr.
///
/// # Errors
/// [`ForwardingError`]. If one of those links can't get the value, forwarding stays off.
pub fn ensure(socket: &Netlink, family: Family) -> Result<(), ForwardingError> {
    // Nothing is written where it is on already: the kernel would go through all interfaces.
    if sysctl::read(path(family))? == "1" {
        return Ok(());
    }
    if family == Family::V6 {
        for link in advertised_links(socket)? {
            keep_advertised(&link)?;
        }
    }
    Ok(sysctl::write(path(family), "1")?)
}

fn keep_advertised(link: &str) -> Result<(), ForwardingError> {
    match sysctl::write(&accept_ra(link), ACCEPT_RA_OF_ROUTERS) {
        // It has been deleted meanwhile.
        Err(SysctlError::NotFound { .. }) => Ok(()),
        Err(source) => Err(ForwardingError::AcceptRa { link: link.to_owned(), source }),
        Ok(()) => {
            eprintln!(
                "set net.ipv6.conf.{}.accept_ra to 2, because {link} would lose its routes from router advertisements \
                 when IPv6 forwarding is switched on; set it in sysctl.d too",
                link.replace('.', "/")
            );
            Ok(())
        }
    }
}

/// Says whether [`ensure`] would succeed; changes nothing.
///
/// # Errors
/// Those that [`ensure`] would return.
pub fn probe(socket: &Netlink, family: Family) -> Result<(), ForwardingError> {
    if sysctl::read(path(family))? == "1" {
        return Ok(());
    }
    if family == Family::V6 {
        for link in advertised_links(socket)? {
            match sysctl::probe(&accept_ra(&link), ACCEPT_RA_OF_ROUTERS) {
                Err(SysctlError::NotFound { .. }) | Ok(()) => {}
                Err(source) => return Err(ForwardingError::AcceptRa { link, source }),
            }
        }
    }
    Ok(sysctl::probe(path(family), "1")?)
}

fn accept_ra(link: &str) -> String {
    format!("net/ipv6/conf/{link}/accept_ra")
}

/// The links, by name, with routes or addresses from router advertisements that the kernel takes (`accept_ra` is 1; where a
/// daemon handles them it is 0, and where it is 2 nothing is lost). Addresses may come without a default route. Lists the
/// IPv6 routes and addresses of all links.
fn advertised_links(socket: &Netlink) -> Result<BTreeSet<String>, NetError> {
    let routes = socket.routes(&RouteFilter { family: Family::V6, device: None, table: None })?;
    let by_route = routes.into_iter().filter(|route| route.advertised).map(|route| route.device);
    let addresses = socket.ipv6_addresses()?.into_iter();
    let by_address = addresses.filter(|(_, address)| !address.permanent && !address.link_local);
    let indexes: BTreeSet<u32> = by_route.chain(by_address.map(|(index, _)| index)).collect();
    let mut names = BTreeSet::new();
    for index in indexes {
        let Some(link) = socket.link_by_index(index)? else { continue };
        if sysctl::read(&accept_ra(&link.name)).is_ok_and(|value| value == ACCEPT_RA_OF_HOSTS) {
            names.insert(link.name);
        }
    }
    Ok(names)
}
