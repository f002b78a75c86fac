//! The plan: an attachment's names and the redirection of its questions, as data, computed without access to the kernel.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use cni_netfilter::{DnsRedirect, DnsTarget};
use cni_plugin::{CniArgs, CniError, CniResult, Dns, Family, IfName, IpConfig, Owner};

use crate::record::Record;
use crate::settings::Settings;

/// Where the resolver listens: no port below 1024, so that it needs no privilege, and none that a DNS server has on all addresses.
pub const PORT: u16 = 10053;

/// What an attachment should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its file.
    pub record: Record,
    /// The redirection of its questions.
    pub redirect: DnsRedirect,
}

/// A link of the node, with its addresses.
#[derive(Debug, Clone)]
pub struct NodeLink {
    /// Its name.
    pub name: IfName,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Plan {
    /// The plan for the addresses of `owner` in `result`; `links` are the result's interfaces on the node, in its order. The
    /// gateway must be an address of one of them: that is where the resolver listens.
    pub fn new(
        settings: &Settings,
        owner: &Owner,
        args: &CniArgs,
        result: &CniResult,
        links: &[NodeLink],
    ) -> Result<Self, CniError> {
        let ips = result.ips_of(&owner.ifname);
        let is_gateway = |link: &NodeLink, ip: &IpConfig| ip.gateway.is_some_and(|gw| link.addresses.contains(&gw));
        let found = links.iter().find(|link| ips.iter().any(|ip| is_gateway(link, ip)));
        let Some(link) = found else { return Err(without_gateway(owner, &ips)) };
        let servers = servers(&ips, link);
        if servers.is_empty() {
            return Err(without_gateway(owner, &ips));
        }
        settings.refuse_loop(&ips.iter().filter_map(|ip| ip.gateway).collect::<Vec<_>>())?;
        let record = Record {
            network: owner.network.clone(),
            container_id: owner.container_id.clone(),
            ifname: owner.ifname.clone(),
            interface: link.name.clone(),
            addresses: ips.iter().map(|ip| ip.address).collect(),
            servers,
            names: settings.names(owner, args),
            domain: settings.domain.clone(),
            upstream: settings.upstream.clone(),
            has_way_out: result.routes.iter().any(|route| route.dst.prefix() == 0),
            intercept: settings.intercept,
        };
        Ok(Self { redirect: redirect_of(&record), record })
    }

    /// Name resolution in the container: the resolver before the servers that were named already, and the domain.
    pub fn dns(&self, before: &Dns) -> Dns {
        let mut dns = before.clone();
        let ours: Vec<String> = self.record.servers.iter().map(ToString::to_string).collect();
        dns.nameservers.retain(|server| !ours.contains(server));
        dns.nameservers.splice(0..0, ours);
        if let Some(domain) = &self.record.domain
            && !dns.search.iter().any(|search| search == domain.as_str())
        {
            dns.search.push(domain.to_string());
        }
        dns
    }
}

/// The gateways at which the container asks: those that the link has, one a family.
fn servers(ips: &[IpConfig], link: &NodeLink) -> Vec<IpAddr> {
    let mut servers: Vec<IpAddr> = Vec::new();
    for gateway in ips.iter().filter_map(|ip| ip.gateway).filter(|gateway| link.addresses.contains(gateway)) {
        // A link-local server would need the name of the container's interface in its resolv.conf.
        let is_taken = servers.iter().any(|other| Family::of(*other) == Family::of(gateway));
        if !is_taken && !is_link_local(gateway) {
            servers.push(gateway);
        }
    }
    servers
}

/// The redirection that the owner of a file has.
pub fn redirect_of(record: &Record) -> DnsRedirect {
    let target = |client: IpAddr| {
        let server = record.servers.iter().find(|server| Family::of(**server) == Family::of(client))?;
        Some(DnsTarget { client, resolver: SocketAddr::new(*server, PORT) })
    };
    DnsRedirect {
        owner: record.owner(),
        interface: record.interface.clone(),
        targets: record.addresses.iter().filter_map(|address| target(address.ip())).collect(),
        intercept: record.intercept,
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn without_gateway(owner: &Owner, ips: &[IpConfig]) -> CniError {
    let Owner { network, ifname, .. } = owner;
    let gateways: Vec<String> = ips.iter().filter_map(|ip| ip.gateway).map(|gateway| gateway.to_string()).collect();
    let why = match gateways.as_slice() {
        [] if ips.is_empty() => format!("prevResult has no address of {ifname}"),
        [] => format!("prevResult has no gateway for {ifname}"),
        found => format!("no interface of prevResult on this node has its gateway {}", found.join(", ")),
    };
    CniError::plugin(format!("network {network} has no gateway on this node: {why}")).details(
        "the resolver answers at the gateway, an address of the node that is not link-local: set \"isGateway\": true for bridge, or \
         remove dnsname from this network's plugins",
    )
}

/// As golden files have it.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = serde_json::to_string_pretty(&self.record).map_err(|_| fmt::Error)?;
        write!(f, "{record}\n{}", self.redirect)
    }
}
