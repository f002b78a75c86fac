//! `inspect`: everything about networks, as JSON with Docker's key names where the meaning is the same.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use cni_plugin::Owner;
use cni_runtime::{NetworkList, Networks};
use serde::Serialize;
use serde_json::Value;

use crate::attached::{Attached, Port, attached};
use crate::create::is_made_here;
use crate::failure::Failure;
use crate::node::Node;
use crate::{output, subnets};

/// A network: the keys of `docker network inspect`, and what only CNI has below `CNI`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Network<'a> {
    name: String,
    id: String,
    scope: &'static str,
    driver: String,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    internal: bool,
    containers: BTreeMap<Cow<'a, str>, Container<'a>>,
    options: BTreeMap<String, Value>,
    #[serde(rename = "CNI")]
    cni: Cni,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Ipam {
    driver: String,
    config: Vec<Subnet>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Subnet {
    subnet: String,
    #[serde(rename = "IPRange", skip_serializing_if = "Option::is_none")]
    ip_range: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Container<'a> {
    name: &'a str,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    mac_address: &'a str,
    #[serde(rename = "IPv4Address")]
    ipv4: String,
    #[serde(rename = "IPv6Address")]
    ipv6: String,
    interface: &'a str,
    namespace: Cow<'a, str>,
    state: &'static str,
    ports: Vec<Port>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Cni {
    file: String,
    version: String,
    plugins: Vec<String>,
    created_by_cninet: bool,
    addresses_taken: Option<usize>,
    addresses_free: Option<String>,
}

/// Prints these networks; without names, all.
pub fn inspect(node: &Node, names: &[String]) -> Result<(), Failure> {
    let networks = node.networks()?;
    // The process ends when they are shown.
    let all: &[Attached] = attached(node)?.leak();
    let mut found = Vec::new();
    if names.is_empty() {
        found.extend(networks.lists().map(|(path, list)| describe(path, list, all)));
    }
    for name in names {
        let list = networks.find(name)?;
        found.push(describe(path_of(&networks, list), list, all));
    }
    output::json(&found)
}

fn path_of<'a>(networks: &'a Networks, list: &NetworkList) -> &'a Path {
    networks.lists().find(|(_, other)| std::ptr::eq(*other, list)).map_or(Path::new(""), |(path, _)| path)
}

fn describe<'a>(path: &Path, list: &NetworkList, all: &'a [Attached]) -> Network<'a> {
    let ranges = subnets::ranges(list);
    let config = ranges.iter().map(|range| Subnet {
        subnet: range.subnet.to_string(),
        ip_range: range.is_part.then(|| format!("{}-{}", range.first, range.last)),
        gateway: range.gateway.map(|gateway| gateway.to_string()),
    });
    let first = list.plugins.first();
    let (taken, free) = subnets::taken_and_free(list).unzip();
    Network {
        name: list.name.to_string(),
        id: Owner::network_key(&list.name).trim_end_matches('-').to_owned(),
        scope: "local",
        driver: first.map(|plugin| plugin.plugin_type.clone()).unwrap_or_default(),
        enable_ipv6: ranges.iter().any(|range| range.subnet.is_ipv6()),
        ipam: Ipam {
            driver: first.map(|plugin| plugin.ipam_type().to_owned()).unwrap_or_default(),
            config: config.collect(),
        },
        internal: is_internal(list),
        containers: containers(list, all),
        options: options(list),
        cni: Cni {
            file: path.display().to_string(),
            version: list.cni_version.clone(),
            plugins: list.plugins.iter().map(|plugin| plugin.plugin_type.clone()).collect(),
            created_by_cninet: is_made_here(list),
            addresses_taken: taken,
            addresses_free: free.map(|free| free.to_string()),
        },
    }
}

/// Without a default route containers don't get out.
fn is_internal(list: &NetworkList) -> bool {
    let Some(object) = list.plugins.first().map(|plugin| &plugin.object) else { return false };
    let is = |key: &str| object.get(key).and_then(Value::as_bool).unwrap_or_default();
    let routes = object.get("ipam").and_then(|ipam| ipam.get("routes")).and_then(Value::as_array);
    !is("isDefaultGateway") && !is("ipMasq") && routes.is_none_or(Vec::is_empty)
}

/// The plugin's own keys.
fn options(list: &NetworkList) -> BTreeMap<String, Value> {
    let common = ["type", "name", "cniVersion", "ipam", "capabilities", "dns", "args", "runtimeConfig"];
    let object = list.plugins.first().map(|plugin| plugin.object.clone()).unwrap_or_default();
    object.into_iter().filter(|(key, _)| !common.contains(&key.as_str())).collect()
}

/// By their IDs. A container's second interface on the network has its name behind the ID.
fn containers<'a>(list: &NetworkList, all: &'a [Attached]) -> BTreeMap<Cow<'a, str>, Container<'a>> {
    let mut containers = BTreeMap::new();
    let network_key = Owner::network_key(&list.name);
    for one in all.iter().filter(|one| one.entry.network == list.name) {
        let attachment = &one.entry.attachment;
        let address = |v4: bool| {
            let of_family = one.reported().ips.iter().find(|ip| ip.address.is_ipv4() == v4);
            of_family.map(|ip| ip.address.to_string()).unwrap_or_default()
        };
        let described = Container {
            name: one.name(),
            endpoint_id: format!(
                "{network_key}{}",
                Owner::attachment_key(&attachment.container_id, &attachment.ifname)
            ),
            mac_address: one.interface().map_or("", |interface| &interface.mac),
            ipv4: address(true),
            ipv6: address(false),
            interface: attachment.ifname.as_str(),
            namespace: attachment.netns.to_string_lossy(),
            state: one.state.word(),
            ports: one.ports(),
        };
        let mut key = Cow::Borrowed(attachment.container_id.as_str());
        if containers.contains_key(&key) {
            key = format!("{key}:{}", attachment.ifname).into();
        }
        containers.insert(key, described);
    }
    containers
}
