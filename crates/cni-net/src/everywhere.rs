//! Which addresses exist on the node, in whatever network namespace: what a rule that leads to none of them is worth.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};

use crate::address::Address;
use crate::error::Errno;
use crate::{NetError, NetNs, NetNsError, Netlink, Operation};

/// The addresses of this namespace, of all that one of its links leads into, and of all that a process lives in. For garbage
/// collection only: it walks all links, addresses and processes.
///
/// A veth pair's other end shows here whoever keeps its namespace alive, and in whatever mount or PID namespace that is; a
/// macvlan, an SR-IOV function or any other device that was moved there shows by the processes that use it.
///
/// # Errors
/// If one of the namespaces cannot be looked into: then what is not found may exist all the same.
pub fn addresses_everywhere(socket: &Netlink) -> Result<HashSet<IpAddr>, NetError> {
    let mut found: HashSet<IpAddr> = socket.addresses_in(None)?.into_iter().collect();
    // Listing the links makes the kernel number the namespaces that they lead into (rtnl_fill_link_netnsid); one that is
    // about to go gets no number.
    let behind: HashSet<i32> = socket.links()?.iter().filter_map(|link| link.peer_netnsid).collect();
    for namespace in behind.into_iter().filter(|number| *number >= 0) {
        found.extend(socket.addresses_in(Some(namespace))?);
    }
    let mut seen = HashSet::from([NetNs::current()?.inode()]);
    for path in namespaces_of_processes()? {
        let namespace = match NetNs::open(&path) {
            Ok(namespace) => namespace,
            Err(error) if is_nobodys(&error) => continue,
            Err(error) => return Err(error.into()),
        };
        if seen.insert(namespace.inode()) {
            found.extend(Netlink::open_in(&namespace)?.addresses_in(None)?);
        }
    }
    Ok(found)
}

impl Netlink {
    /// All addresses of this socket's namespace, or of the one that has this number in it.
    fn addresses_in(&self, namespace: Option<i32>) -> Result<Vec<IpAddr>, NetError> {
        let mut message = AddressMessage::default();
        message.attributes.extend(namespace.map(AddressAttribute::TargetNetNsId));
        let answers = self
            .dump(&RouteNetlinkMessage::GetAddress(message))
            .map_err(|failure| failure.during(self, Operation::ListAllAddresses { namespace }))?;
        let addresses = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => Address::from_message(&message),
            _ => None,
        });
        Ok(addresses.map(|address| address.network.ip()).collect())
    }
}

fn namespaces_of_processes() -> Result<Vec<PathBuf>, NetNsError> {
    let failed = |source| NetNsError::Open { path: "/proc".into(), source };
    let mut paths = Vec::new();
    for entry in Path::new("/proc").read_dir().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()) {
            paths.push(entry.path().join("ns/net"));
        }
    }
    Ok(paths)
}

/// Of a process that has ended: it loses its namespaces before its directory. Or of one that we may not look at: nobody with
/// our privileges has attached it to anything.
fn is_nobodys(error: &NetNsError) -> bool {
    match error {
        NetNsError::NotFound { .. } => true,
        NetNsError::Open { source, .. } => {
            let of_another = source.kind() == io::ErrorKind::PermissionDenied;
            of_another || source.raw_os_error() == Some(Errno::SRCH)
        }
        _ => false,
    }
}
