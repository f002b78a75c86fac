//! `connect` and `disconnect`: a further network for a running container of any runtime.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cni_net::{NetNs, Netlink};
use cni_plugin::{ContainerId, IfName};
use cni_runtime::{Attachment, NetworkList};
use serde_json::json;

use crate::attached::{Attached, attached, of_container};
use crate::failure::Failure;
use crate::node::Node;
use crate::output;
use crate::ps::Row;

/// What to connect, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct Connect {
    /// The network's name
    #[arg(value_name = "NET")]
    pub network: String,
    /// The container's ID or its beginning, or its pod's name
    pub container: String,
    /// An address to request; several times for several
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Vec<IpAddr>,
    /// A further name of the container on the network
    #[arg(long, value_name = "NAME")]
    pub alias: Vec<String>,
    /// Its name in the container; default: the next free ethN
    #[arg(long, value_name = "NAME")]
    pub ifname: Option<IfName>,
    /// A process of it, for one that isn't in the cache
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
}

/// What to disconnect.
#[derive(Debug, Clone, clap::Args)]
pub struct Disconnect {
    /// The network's name
    #[arg(value_name = "NET")]
    pub network: String,
    /// The container's ID or its beginning, or its pod's name
    pub container: String,
    /// Which one, if it has several on the network
    #[arg(long, value_name = "NAME")]
    pub ifname: Option<IfName>,
}

/// Connects the container, and prints the attachment as `ps` does. What a failed ADD has made is removed again.
pub fn connect(node: &Node, wanted: &Connect, json: bool) -> Result<(), Failure> {
    let list = node.network(&wanted.network)?;
    let all = attached(node)?;
    let (id, netns) = find(node, wanted, &all)?;
    let namespace = NetNs::open(&netns)?;
    if namespace.is_same(&NetNs::current()?) {
        return Err(Failure::new(format!("{} is the node's own network namespace", netns.display())));
    }
    let has = |one: &&Attached| one.entry.network == list.name && one.entry.attachment.container_id == id;
    if let Some(one) = all.iter().filter(has).find(|one| wanted.ifname.is_none() && one.state.is_running()) {
        let ifname = &one.entry.attachment.ifname;
        let text =
            format!("container {id} is on network {} already, with {ifname}; --ifname asks for one more", list.name);
        return Err(Failure::new(text));
    }
    let ifname = wanted.ifname.clone().map_or_else(|| free_name(&namespace), Ok)?;
    let attachment = requested(&list, wanted, Attachment::new(id, ifname).in_namespace(netns))?;
    if let Err(error) = node.runtime.add(&list, &attachment) {
        if let Err(also) = node.runtime.del(&list, &attachment) {
            eprintln!("cannot remove what was made: {also}");
        }
        return Err(error.into());
    }
    let made = attached(node)?;
    let own = |one: &&Attached| one.owner() == attachment.owner(&list.name);
    let Some(one) = made.iter().find(own) else { return Ok(()) };
    if json {
        return output::json(&Row::of(one));
    }
    let addresses: Vec<String> = one.reported().ips.iter().map(|ip| ip.address.to_string()).collect();
    output::print(format!("{} {}\n", attachment.ifname, addresses.join(" ")).as_bytes())
}

/// The container's whole ID, and its namespace.
fn find(node: &Node, wanted: &Connect, all: &[Attached]) -> Result<(ContainerId, PathBuf), Failure> {
    if let Some(pid) = wanted.pid {
        let id = wanted.container.parse().map_err(|error| Failure::new(format!("CONTAINER: {error}")))?;
        return Ok((id, Path::new("/proc").join(pid.to_string()).join("ns/net")));
    }
    let found = of_container(all, &wanted.container, &node.runtime.cache.path())?;
    let running = found.iter().find(|one| one.state.is_running());
    let attachment = |one: &Attached| (one.entry.attachment.container_id.clone(), one.entry.attachment.netns.clone());
    let gone = || {
        let paths: Vec<String> = found.iter().map(|one| one.entry.attachment.netns.display().to_string()).collect();
        Failure::new(format!("container {:?} has no namespace any more: {}", wanted.container, paths.join(", ")))
    };
    running.map(|one| attachment(one)).ok_or_else(gone)
}

/// The first of eth0, eth1, … that no link in the namespace has.
fn free_name(namespace: &NetNs) -> Result<IfName, Failure> {
    let inside = Netlink::open_in(namespace)?;
    for number in 0.. {
        let name = format!("eth{number}");
        if inside.link_by_name(&name)?.is_none() {
            return name.parse().map_err(Failure::from);
        }
    }
    Err(Failure::new("no name is free"))
}

/// The attachment with the requested addresses and names, in the way that the network's plugins take them.
fn requested(list: &NetworkList, wanted: &Connect, mut attachment: Attachment) -> Result<Attachment, Failure> {
    if !wanted.ip.is_empty() && list.has_capability("ips") {
        attachment = attachment.with_capability("ips", json!(wanted.ip));
    } else if let [address] = wanted.ip[..] {
        attachment = attachment.with_arg("IgnoreUnknown", "1").with_arg("IP", &address.to_string());
    } else if !wanted.ip.is_empty() {
        let text =
            format!("--ip: network {} takes one address only: no plugin of it has the capability \"ips\"", list.name);
        return Err(Failure::new(text));
    }
    if !wanted.alias.is_empty() {
        if !list.has_capability("aliases") {
            let text =
                format!("--alias: no plugin of network {} has the capability \"aliases\" (dnsname has)", list.name);
            return Err(Failure::new(text));
        }
        attachment = attachment.with_capability("aliases", json!({list.name.as_str(): wanted.alias}));
    }
    Ok(attachment)
}

/// Disconnects the container. The configuration is the one that it was connected with.
pub fn disconnect(node: &Node, wanted: &Disconnect) -> Result<(), Failure> {
    let all = attached(node)?;
    let found = of_container(&all, &wanted.container, &node.runtime.cache.path())?;
    let on_network: Vec<&&Attached> = found.iter().filter(|one| one.entry.network.as_str() == wanted.network).collect();
    let named = |one: &&&Attached| wanted.ifname.as_ref().is_none_or(|name| one.entry.attachment.ifname == *name);
    let chosen: Vec<&&&Attached> = on_network.iter().filter(|one| named(one)).collect();
    let names =
        |of: &[&&Attached]| of.iter().map(|one| one.entry.attachment.ifname.to_string()).collect::<Vec<_>>().join(", ");
    match chosen[..] {
        [one] => {
            let list = one.entry.list().cloned().or_else(|_| node.network(&wanted.network))?;
            Ok(node.runtime.del(&list, &one.entry.attachment)?)
        }
        [] if on_network.is_empty() => {
            let networks: Vec<&str> = found.iter().map(|one| one.entry.network.as_str()).collect();
            let text = format!(
                "container {} is not on network {:?}, but on {}",
                wanted.container,
                wanted.network,
                networks.join(", ")
            );
            Err(Failure::new(text))
        }
        [] => {
            Err(Failure::new(format!("--ifname: the container's interfaces on the network are {}", names(&on_network))))
        }
        _ => Err(Failure::new(format!(
            "the container has {} on the network; choose one by --ifname",
            names(&on_network)
        ))),
    }
}
