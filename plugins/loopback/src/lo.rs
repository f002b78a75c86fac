//! The interface `lo`, and the marks of the attachments whose DEL may take it down again.

use cni_net::{Address, Link, NetError, Netlink};
use cni_plugin::{CniError, CniResult, Interface, IpConfig, MacAddr, Owner};

/// What the marks of all attachments begin with.
const MARK: &str = "cni-lo-";

/// The attachment's mark: an alternative name of `lo`.
///
/// A namespace can be shared by several attachments, and another program may have brought `lo` up. So ADD marks the `lo`
/// that it finds down or marked, and only the DEL that removes the last mark takes it down.
pub fn mark(owner: &Owner) -> String {
    format!("{MARK}{}", owner.key())
}

/// True if an attachment brought the link up.
pub fn is_marked(lo: &Link) -> bool {
    lo.altnames.iter().any(|name| is_mark(name))
}

/// True if the alternative name is an attachment's mark.
pub fn is_mark(altname: &str) -> bool {
    altname.starts_with(MARK)
}

/// The namespace's `lo`.
pub fn find(inside: &Netlink) -> Result<Link, CniError> {
    // Every namespace has it from the start, and the kernel doesn't let it be deleted; but it can be renamed.
    inside.link_by_name("lo")?.filter(|link| link.loopback).ok_or_else(|| {
        CniError::plugin("the namespace has no loopback interface \"lo\": was another interface given its name?")
    })
}

/// The addresses of `lo`, IPv4 first.
pub fn addresses(inside: &Netlink, lo: &Link) -> Result<Vec<Address>, NetError> {
    let mut addresses = inside.addresses(lo.index)?;
    addresses.sort_by_key(|address| address.network.is_ipv6());
    Ok(addresses)
}

/// The result: `lo`, and its first address of each family.
pub fn result(sandbox: &str, addresses: &[Address]) -> CniResult {
    let first = |v4: bool| addresses.iter().find(|address| address.network.is_ipv4() == v4);
    let ip = |address: &Address| IpConfig { interface: Some(0), address: address.network, gateway: None };
    CniResult {
        interfaces: vec![Interface::new("lo", MacAddr([0; 6]), sandbox)],
        ips: [first(true), first(false)].into_iter().flatten().map(ip).collect(),
        ..CniResult::default()
    }
}
