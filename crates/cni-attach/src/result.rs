//! The result of an ADD: the links, and what IPAM said.

use std::path::Path;

use cni_plugin::{CniResult, Dns, Interface, IpConfig, MacAddr, Request};

/// A link for the result: of the node, or in the namespace at `netns`. Its MTU is reported from version 1.1.0 on.
pub fn interface<C>(request: &Request<C>, name: &str, mac: MacAddr, mtu: u32, netns: Option<&Path>) -> Interface {
    let sandbox = netns.map(Path::to_string_lossy).unwrap_or_default();
    Interface::new(name, mac, &sandbox).with_mtu(request.mtu_reported(mtu))
}

/// IPAM's result with these links, of which the one at index `container` has the addresses, and `dns` in place of IPAM's if
/// the configuration has it.
pub fn with_interfaces(interfaces: Vec<Interface>, container: i64, ipam: CniResult, dns: Option<Dns>) -> CniResult {
    let placed = |ip: IpConfig| IpConfig { interface: Some(container), ..ip };
    CniResult {
        interfaces,
        ips: ipam.ips.into_iter().map(placed).collect(),
        routes: ipam.routes,
        dns: dns.unwrap_or(ipam.dns),
    }
}
