//! Addresses of the node that belong to services: a port that is published on every address would take the services'
//! connections.
//!
//! A packet rule can ask whether an address is local, not which link has it. So the addresses are looked up when the ports are
//! published, unless the configuration has some.

use std::net::{IpAddr, Ipv4Addr};

use cni_net::{NetError, Netlink};
use cni_netfilter::PortForwards;
use ipnetwork::IpNetwork;

use crate::settings::Settings;

/// The links of kube-proxy's mode ipvs and of Kubernetes' node-local DNS cache.
const LINKS: [&str; 2] = ["kube-ipvs0", "nodelocaldns"];
/// At most this many addresses a family are excluded. For a node with more services the configuration has to name the prefix.
const ADDRESSES: usize = 64;
/// The stub resolvers of systemd-resolved, which serve the node's programs (systemd-resolved.service(8)).
const STUBS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];
const DNS: u16 = 53;

/// Writes the addresses into the plan, unless the configuration has some. Constant time.
pub fn exclude(socket: &Netlink, settings: &Settings, wanted: &mut [PortForwards]) -> Result<(), NetError> {
    let is_on_all = |wanted: &PortForwards| wanted.ports.iter().any(|port| port.host_ip.is_none());
    if settings.exclude.is_some() || !wanted.iter().any(is_on_all) {
        return Ok(());
    }
    let mut found: Vec<IpAddr> = Vec::new();
    for name in LINKS {
        if let Some(link) = socket.link_by_name(name)? {
            let addresses = socket.addresses(link.index)?.into_iter();
            let addresses = addresses.filter(|address| address.network.is_ipv4() || !address.link_local);
            found.extend(addresses.map(|address| address.network.ip()));
        }
    }
    for wanted in wanted.iter_mut().filter(|wanted| is_on_all(wanted)) {
        let mut of_family: Vec<_> =
            found.iter().filter(|ip| ip.is_ipv4() == wanted.container.is_ipv4()).copied().collect();
        if of_family.len() > ADDRESSES {
            eprintln!(
                "{} have {} service addresses, of which only {ADDRESSES} are excluded: set their prefix in excludeHostIPs",
                LINKS.join(" and "),
                of_family.len()
            );
            of_family.truncate(ADDRESSES);
        }
        let is_dns = wanted.ports.iter().any(|port| port.host_ip.is_none() && port.host_port == DNS);
        of_family.extend(STUBS.into_iter().filter(|_| is_dns && wanted.container.is_ipv4()));
        wanted.exclude = of_family.into_iter().map(IpNetwork::from).collect();
    }
    Ok(())
}
