//! The node forwards in the families of a container's addresses.

use std::net::IpAddr;

use cni_net::{ForwardingError, Netlink, SysctlError};
use cni_plugin::{Difference, Family};

use crate::print::Place;

/// Lets the node forward in the families of these addresses: see [`cni_net::forwarding::ensure`]. Idempotent; never taken
/// back, as other attachments need it too.
///
/// # Errors
/// As there.
pub fn ensure(host: &Netlink, addresses: impl IntoIterator<Item = IpAddr>) -> Result<(), ForwardingError> {
    Family::among(addresses).into_iter().try_for_each(|family| cni_net::forwarding::ensure(host, family))
}

/// What [`ensure`] does, as commands.
pub fn commands(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<String> {
    let command = |family| Place::Node.sysctl(cni_net::forwarding::path(family), "1");
    Family::among(addresses).into_iter().map(command).collect()
}

/// Says whether [`ensure`] would succeed; changes nothing.
///
/// # Errors
/// Those that [`ensure`] would return.
pub fn probe(host: &Netlink, addresses: impl IntoIterator<Item = IpAddr>) -> Result<(), ForwardingError> {
    Family::among(addresses).into_iter().try_for_each(|family| cni_net::forwarding::probe(host, family))
}

/// The settings that aren't as [`ensure`] leaves them.
///
/// # Errors
/// As [`cni_net::sysctl::read`].
pub fn check(addresses: impl IntoIterator<Item = IpAddr>) -> Result<Vec<Difference>, SysctlError> {
    let mut differences = Vec::new();
    for family in Family::among(addresses) {
        let path = cni_net::forwarding::path(family);
        let found = cni_net::sysctl::read(path)?;
        if found != "1" {
            differences.push(Difference::new(format!("sysctl {path}"), "1", found));
        }
    }
    Ok(differences)
}
