//! The addresses of all network namespaces of the node: a rule for an address that is in none of them is a leftover.

use std::collections::HashSet;
use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressMessage};

use super::Address;
use crate::error::{NetError, Operation};
use crate::netlink::{Netlink, rtm};
use crate::netns::NetNs;

/// The addresses of this namespace, of all namespaces with the other end of one of its links, and of all that have a process or are
/// mounted. For garbage collection only: it reads all links, addresses, processes and mounts.
///
/// A namespace with a veth pair's other end is found through the pair, whatever keeps it alive; one with a macvlan, an SR-IOV
/// function or another device that was moved there, through its processes or its mount.
///
/// # Errors
/// If one of the namespaces cannot be looked into: then what is not found may exist all the same.
pub fn addresses_in_all_namespaces(socket: &Netlink) -> Result<HashSet<IpAddr>, NetError> {
    let mut found: HashSet<IpAddr> = socket.addresses_in(None)?.into_iter().collect();
    // Listing the links makes the kernel number the namespaces that they lead into (rtnl_fill_link_netnsid); one that is
    // about to go gets no number.
    let behind: HashSet<i32> = socket.links()?.iter().filter_map(|link| link.peer_netnsid).collect();
    for namespace in behind.into_iter().filter(|number| *number >= 0) {
        found.extend(socket.addresses_in(Some(namespace))?);
    }
    let here = NetNs::current()?;
    NetNs::for_each(|namespace| {
        if !namespace.is_same(&here) {
            found.extend(Netlink::open_in(namespace)?.addresses_in(None)?);
        }
        Ok::<_, NetError>(())
    })?;
    Ok(found)
}

impl Netlink {
    /// All addresses of this socket's namespace, or of the one that has this number in it.
    fn addresses_in(&self, namespace: Option<i32>) -> Result<Vec<IpAddr>, NetError> {
        let mut message = AddressMessage::default();
        message.attributes.extend(namespace.map(AddressAttribute::TargetNetNsId));
        let answers = self
            .dump(rtm::GETADDR, &message)
            .map_err(|failure| failure.during(self, Operation::ListAllAddresses { namespace }))?;
        let addresses = answers.iter().filter_map(Address::from_message);
        Ok(addresses.map(|address| address.network.ip()).collect())
    }
}
