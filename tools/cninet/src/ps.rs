//! `ps`: the attachments of the node, of containers of any runtime.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Serialize;

use crate::attached::{Attached, Port, attached};
use crate::failure::Failure;
use crate::node::Node;
use crate::output::{self, Table};

/// The interface that every namespace has.
const LOOPBACK: &str = "lo";

/// Which attachments to show: those that all of these hold for.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Filter {
    /// Only attachments to this network
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// Only the attachment that has this address
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<IpAddr>,
    /// Only those that publish this port of the node
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Only those of this container: its ID or pod's name
    #[arg(long, value_name = "ID")]
    pub container: Option<String>,
    /// Only the one with this link, at either end
    #[arg(long, value_name = "LINK")]
    pub link: Option<String>,
}

impl Filter {
    fn takes(&self, one: &Attached) -> bool {
        // containerd has an attachment of `lo` for each pod.
        let is_loopback = one.entry.attachment.ifname.as_str() == LOOPBACK;
        if is_loopback && self.network.is_none() && self.link.is_none() {
            return false;
        }
        let link = |link: &str| one.node_link() == Some(link) || one.entry.attachment.ifname.as_str() == link;
        self.network.as_ref().is_none_or(|network| one.entry.network.as_str() == network)
            && self.ip.is_none_or(|ip| one.addresses().any(|address| address == ip))
            && self.port.is_none_or(|port| one.ports().iter().any(|published| published.host_port == port))
            && self.container.as_ref().is_none_or(|id| one.is_called(id))
            && self.link.as_deref().is_none_or(link)
    }

    fn is_empty(&self) -> bool {
        self.network.is_none()
            && self.ip.is_none()
            && self.port.is_none()
            && self.container.is_none()
            && self.link.is_none()
    }
}

/// An attachment in the output of `ps --json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row<'a> {
    network: &'a str,
    container_id: &'a str,
    if_name: &'a str,
    name: &'a str,
    /// `running` or `gone`.
    state: &'static str,
    /// With their prefix lengths.
    addresses: Vec<IpNetwork>,
    mac: &'a str,
    ports: Vec<Port>,
    namespace: Cow<'a, str>,
    /// The node's end of the link; `null` if it has none.
    link: Option<&'a str>,
    /// When it was attached, in seconds of the epoch.
    attached: i64,
}

impl<'a> Row<'a> {
    /// What is said of an attachment.
    pub fn of(one: &'a Attached) -> Self {
        let attachment = &one.entry.attachment;
        Self {
            network: one.entry.network.as_str(),
            container_id: attachment.container_id.as_str(),
            if_name: attachment.ifname.as_str(),
            name: one.name(),
            state: one.state.word(),
            addresses: one.reported().ips.iter().map(|ip| ip.address).collect(),
            mac: one.interface().map_or("", |interface| &interface.mac),
            ports: one.ports(),
            namespace: attachment.netns.to_string_lossy(),
            link: one.node_link(),
            attached: one.entry.written,
        }
    }
}

/// Prints the attachments.
pub fn ps(node: &Node, filter: &Filter, json: bool, whole: bool) -> Result<(), Failure> {
    // The process ends when they are shown.
    let all: &[Attached] = attached(node)?.leak();
    let found: Vec<&Attached> = all.iter().filter(|one| filter.takes(one)).collect();
    if json {
        return output::json(&found.into_iter().map(Row::of).collect::<Vec<_>>());
    }
    if found.is_empty() {
        let cache = node.runtime.cache.path();
        let of = if filter.is_empty() || all.is_empty() { "no attachment" } else { "no such attachment" };
        eprintln!("{of} in {} ({} there)", cache.display(), all.len());
    }
    let mut table = Table::new(&["NETWORK", "CONTAINER", "IFNAME", "ADDRESSES", "PORTS", "STATE"], whole);
    for one in found {
        let addresses: Vec<String> = one.addresses().map(|address| address.to_string()).collect();
        let ports: Vec<String> = one.ports().iter().map(Port::to_string).collect();
        let attachment = &one.entry.attachment;
        let id = table.id(attachment.container_id.as_str());
        let network = one.entry.network.to_string();
        table.row([
            network,
            id,
            attachment.ifname.to_string(),
            addresses.join(","),
            ports.join(","),
            one.state.word().into(),
        ]);
    }
    table.print()
}
