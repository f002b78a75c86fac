//! The attachments that the cache has, and whether their containers live.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::path::Path;

use cni_net::{Link, NetNs, Netlink};
use cni_plugin::{Interface, Owner};
use cni_runtime::{CacheEntry, Reported};
use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;
use crate::node::Node;

/// Whether the namespace of an attachment lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It does.
    Running,
    /// It doesn't, for this reason.
    Gone(String),
}

impl State {
    /// True if it lives.
    pub fn is_running(&self) -> bool {
        *self == Self::Running
    }

    /// One word for tables.
    pub fn word(&self) -> &'static str {
        if self.is_running() { "running" } else { "gone" }
    }
}

/// An attachment of the cache.
#[derive(Debug)]
pub struct Attached {
    /// Its file.
    pub entry: CacheEntry,
    /// Whether its namespace lives.
    pub state: State,
    reported: OnceCell<Reported>,
}

/// A published port (`portMappings`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// On the node.
    pub host_port: u16,
    /// In the container.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// On one of the node's addresses only; empty for all.
    #[serde(rename = "hostIP")]
    pub host_ip: String,
}

impl Port {
    /// Of a mapping as runtimes pass it on, with keys in any letter case.
    fn of(mapping: &Value) -> Option<Self> {
        let object = mapping.as_object()?;
        let in_any_case =
            |key: &str| object.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value);
        let get = |key: &str| object.get(key).or_else(|| in_any_case(key)).filter(|value| !value.is_null());
        let number = |key: &str| get(key).map_or(Some(0), |value| u16::try_from(value.as_u64()?).ok());
        let text = |key: &str, default| get(key).map_or(Some(default), Value::as_str).map(str::to_owned);
        Some(Self {
            host_port: number("hostPort")?,
            container_port: number("containerPort")?,
            protocol: text("protocol", "tcp")?,
            host_ip: text("hostIP", "")?,
        })
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.host_ip.is_empty() {
            write!(f, "{}:", self.host_ip)?;
        }
        write!(f, "{}->{}/{}", self.host_port, self.container_port, self.protocol)
    }
}

impl Attached {
    /// Whose it is.
    pub fn owner(&self) -> Owner {
        self.entry.owner()
    }

    /// The interfaces and addresses that ADD returned. Decoded when they are first asked for.
    pub fn reported(&self) -> &Reported {
        self.reported.get_or_init(|| self.entry.reported())
    }

    /// Its interface in the container, if the result names it.
    pub fn interface(&self) -> Option<&Interface> {
        let ifname = self.entry.attachment.ifname.as_str();
        self.reported().interfaces.iter().find(|found| found.name == ifname && !found.sandbox.is_empty())
    }

    /// The node's end of its link, if it has one.
    pub fn node_link(&self) -> Option<&str> {
        let on_node = |found: &&Interface| found.sandbox.is_empty();
        // bridge reports the bridge first.
        self.reported()
            .interfaces
            .iter()
            .filter(on_node)
            .nth(1)
            .or_else(|| {
                self.reported().interfaces.iter().find(on_node).filter(|_| self.reported().interfaces.len() == 2)
            })
            .map(|found| found.name.as_str())
    }

    /// Its addresses on this network.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.reported().ips.iter().map(|ip| ip.address.ip())
    }

    /// Its published ports.
    pub fn ports(&self) -> Vec<Port> {
        let mappings = self.entry.attachment.capability_args.get("portMappings").and_then(|value| value.as_array());
        mappings.into_iter().flatten().filter_map(Port::of).collect()
    }

    /// The name that Kubernetes' runtimes pass on: the pod's.
    pub fn name(&self) -> &str {
        let args = &self.entry.attachment.args;
        args.iter().find(|(key, _)| key == "K8S_POD_NAME").map_or("", |(_, value)| value)
    }

    /// True if the container's ID, or its name, begins with this text.
    pub fn is_called(&self, text: &str) -> bool {
        self.entry.attachment.container_id.as_str().starts_with(text) || (!text.is_empty() && self.name() == text)
    }
}

/// All attachments of the cache. Files that can't be used are named on stderr.
pub fn attached(node: &Node) -> Result<Vec<Attached>, Failure> {
    let (entries, broken) = node.runtime.cache.entries()?;
    for error in broken {
        eprintln!("{error}");
    }
    let own = NetNs::current()?;
    Ok(entries.into_iter().map(|entry| examine(entry, &own)).collect())
}

fn examine(entry: CacheEntry, own: &NetNs) -> Attached {
    let mut attached = Attached { entry, state: State::Running, reported: OnceCell::new() };
    attached.state = state(&attached, own);
    attached
}

fn state(attached: &Attached, own: &NetNs) -> State {
    let path = attached.entry.attachment.netns.as_path();
    let gone = |why: &str| State::Gone(format!("{} {why}", path.display()));
    if path.as_os_str().is_empty() {
        return State::Gone("the cache names no namespace".to_owned());
    }
    // In the common case without opening it.
    if own.is_at(path) == Some(false) && !path.starts_with("/proc") {
        return State::Running;
    }
    match NetNs::open_if_there(Some(path)) {
        Ok(None) => gone("is gone"),
        Ok(Some(namespace)) if namespace.is_same(own) => gone("is the node's own by now"),
        // The number of a process is given again to another one.
        Ok(Some(namespace)) if path.starts_with("/proc") && !has_interface(&namespace, attached) => {
            gone("is another process's by now")
        }
        // What can't be looked into may live.
        _ => State::Running,
    }
}

fn has_interface(namespace: &NetNs, attached: &Attached) -> bool {
    let ifname = attached.entry.attachment.ifname.as_str();
    let find = || -> Result<Option<Link>, cni_net::NetError> { Netlink::open_in(namespace)?.link_by_name(ifname) };
    let Ok(found) = find() else { return true };
    let mac = attached.interface().and_then(|interface| interface.mac.parse().ok());
    found.is_some_and(|link| mac.is_none() || link.mac == mac)
}

/// The attachments of the container that is called so: its ID, the beginning of it, or its name.
///
/// # Errors
/// If there is none, or the text is the beginning of several.
pub fn of_container<'a>(all: &'a [Attached], text: &str, cache: &Path) -> Result<Vec<&'a Attached>, Failure> {
    let id = |attached: &Attached| attached.entry.attachment.container_id.clone();
    let exact: Vec<&Attached> = all.iter().filter(|one| id(one).as_str() == text).collect();
    if !exact.is_empty() {
        return Ok(exact);
    }
    let found: Vec<&Attached> = all.iter().filter(|one| one.is_called(text)).collect();
    let Some(first) = found.first() else {
        let text = format!("no attachment of a container {text:?} in {}; cninet ps shows all", cache.display());
        return Err(Failure::new(text));
    };
    if let Some(other) = found.iter().find(|one| id(one) != id(first)) {
        return Err(Failure::new(format!("{text:?} may mean container {} or {}", id(first), id(other))));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_read_in_any_letter_case() {
        let port: Port = Port::of(&json!({"HostPort": 8080, "ContainerPort": 80, "HostIP": ""})).unwrap();
        assert_eq!(port.to_string(), "8080->80/tcp");
        let port = Port { host_ip: "192.0.2.1".to_owned(), protocol: "udp".to_owned(), ..port };
        assert_eq!(port.to_string(), "192.0.2.1:8080->80/udp");
    }
}
