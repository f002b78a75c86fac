//! Kubernetes: the nodes of the cluster with their pod CIDRs and internal addresses, listed once and then watched.
//!
//! A watch goes on where the one before has ended; the server says now and then (by a bookmark) from where. When that is no longer possible
//! (410), the nodes are listed again. The token is read for each request, because it changes during the life of a pod.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use cni_net::unusable_host;
use serde::Deserialize;
use serde_json::Value;

use super::Reporter;
use super::http::{self, ANSWER, Client, HttpError};
use crate::node::{self, Node};
use crate::settings::Kubernetes;

/// The server ends a watch after so many seconds; then it is clear again that the connection lives.
const WATCH: u32 = 120;
/// Silence that is longer than a watch.
const SILENCE: Duration = Duration::from_secs(WATCH as u64 + 15);
/// Nodes of one answer: a node's description may have 20 KiB.
const PAGE: u32 = 100;
/// Between attempts, the first and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(16));

/// Why the server can't be asked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("Kubernetes: {0}")]
    Http(#[from] HttpError),
    #[error("Kubernetes: {url}: {source}")]
    Answer { url: String, source: serde_json::Error },
    #[error("Kubernetes: the server ends a watch with {0}")]
    Status(String),
    #[error("Kubernetes: changes since the last ones are no longer known (410)")]
    Gone,
}

#[derive(Debug, Deserialize)]
struct List {
    metadata: Metadata,
    // A null in the place of an empty list.
    items: Option<Vec<Object>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    resource_version: String,
    r#continue: String,
}

#[derive(Debug, Deserialize)]
struct Object {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    addresses: Option<Vec<Address>>,
}

#[derive(Debug, Deserialize)]
struct Address {
    r#type: String,
    address: String,
}

#[derive(Debug, Deserialize)]
struct Event {
    r#type: String,
    object: Value,
}

/// Follows the API server for ever.
pub fn follow(settings: &Kubernetes, reporter: &Reporter) {
    let (mut pause, mut client) = (RETRY.0, None);
    let mut known = None;
    loop {
        let began = Instant::now();
        match round(settings, &mut client, &mut known, reporter) {
            Ok(()) => {
                pause = RETRY.0;
                // A server that ends each watch at once is not asked all the time.
                thread::sleep(RETRY.0.saturating_sub(began.elapsed()));
            }
            // The list that follows tells what has changed; it is nothing to worry about.
            Err(Failure::Gone) => {
                known = None;
                thread::sleep(RETRY.0);
            }
            Err(error) => {
                reporter.away(&error.to_string());
                thread::sleep(pause);
                pause = (2 * pause).min(RETRY.1);
            }
        }
    }
}

/// The nodes, and the version of the cluster that they are of.
#[derive(Debug)]
struct Known {
    nodes: BTreeMap<String, Node>,
    version: String,
}

/// Lists the nodes if they are not known, and watches them until the server ends that.
fn round(
    settings: &Kubernetes,
    client: &mut Option<Client>,
    known: &mut Option<Known>,
    reporter: &Reporter,
) -> Result<(), Failure> {
    let client = match client {
        Some(client) => {
            client.refresh()?;
            client
        }
        None => client.insert(Client::open(&settings.tls)?),
    };
    let known = match known {
        Some(known) => known,
        None => {
            let listed = known.insert(list(settings, client)?);
            reporter.nodes(listed.nodes.values().cloned().collect());
            listed
        }
    };
    let url = format!(
        "{}/api/v1/nodes?watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH}&resourceVersion={}",
        settings.server, known.version
    );
    let stream = match client.get(&url, token(settings)?.as_deref(), SILENCE) {
        Err(error) if error.code() == Some(410) => return Err(Failure::Gone),
        stream => stream?,
    };
    reporter.alive();
    for event in serde_json::Deserializer::from_reader(stream).into_iter::<Event>() {
        let event = match event {
            Ok(event) => event,
            // A connection that broke off: where to go on from is known.
            Err(error) if error.is_eof() || error.is_io() => break,
            Err(source) => return Err(Failure::Answer { url, source }),
        };
        if take(event, known)? {
            reporter.nodes(known.nodes.values().cloned().collect());
        } else {
            reporter.alive();
        }
    }
    Ok(())
}

/// Takes over an event; true if it changes a node.
fn take(event: Event, known: &mut Known) -> Result<bool, Failure> {
    if event.r#type == "ERROR" {
        let code = event.object.get("code").and_then(Value::as_u64);
        return Err(if code == Some(410) { Failure::Gone } else { Failure::Status(event.object.to_string()) });
    }
    let object: Object =
        serde_json::from_value(event.object).map_err(|source| Failure::Answer { url: "a watch".to_owned(), source })?;
    known.version.clone_from(&object.metadata.resource_version);
    match event.r#type.as_str() {
        "ADDED" | "MODIFIED" => {
            let node = node(object);
            let before = known.nodes.insert(node.name.clone(), node.clone());
            Ok(before != Some(node))
        }
        "DELETED" => Ok(known.nodes.remove(&object.metadata.name).is_some()),
        // A bookmark has a version and nothing else.
        _ => Ok(false),
    }
}

fn list(settings: &Kubernetes, client: &Client) -> Result<Known, Failure> {
    let (mut nodes, mut next) = (BTreeMap::new(), String::new());
    loop {
        let url = format!("{}/api/v1/nodes?limit={PAGE}{next}", settings.server);
        let page = page(client, &url, token(settings)?.as_deref())?;
        nodes.extend(page.items.unwrap_or_default().into_iter().map(node).map(|node| (node.name.clone(), node)));
        if page.metadata.r#continue.is_empty() {
            return Ok(Known { nodes, version: page.metadata.resource_version });
        }
        next = format!("&continue={}", page.metadata.r#continue);
    }
}

fn page(client: &Client, url: &str, token: Option<&str>) -> Result<List, Failure> {
    let answer = match client.get(url, token, ANSWER) {
        // The list was begun too long ago.
        Err(error) if error.code() == Some(410) => return Err(Failure::Gone),
        answer => answer?,
    };
    let mut text = Vec::new();
    let read = std::io::BufReader::new(answer).read_to_end(&mut text).map_err(serde_json::Error::io);
    read.and_then(|_| serde_json::from_slice(&text)).map_err(|source| Failure::Answer { url: url.to_owned(), source })
}

fn token(settings: &Kubernetes) -> Result<Option<String>, Failure> {
    let Some(path) = &settings.token else { return Ok(None) };
    let token = http::read(path)?;
    Ok(Some(String::from_utf8_lossy(&token).trim().to_owned()))
}

fn node(object: Object) -> Node {
    let internal = object.status.addresses.unwrap_or_default();
    let internal = internal.iter().filter(|address| address.r#type == "InternalIP");
    let parsed = internal.filter_map(|address| address.address.parse().ok());
    let addresses: Vec<IpAddr> = parsed.filter(|address| unusable_host(*address).is_none()).collect();
    let cidrs = object.spec.pod_cidrs.filter(|list| !list.is_empty());
    let cidrs = cidrs.unwrap_or_else(|| object.spec.pod_cidr.into_iter().collect());
    let subnets = cidrs.iter().filter_map(|cidr| node::subnet(cidr).ok()).collect();
    Node { name: object.metadata.name, addresses, subnets }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(kind: &str, object: Value) -> Event {
        Event { r#type: kind.to_owned(), object }
    }

    fn described(name: &str, version: &str, cidr: &str) -> Value {
        json!({"metadata": {"name": name, "resourceVersion": version, "labels": {"a": "b"}}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr, "fd00::/64"]},
            "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "ExternalIP", "address": "198.51.100.1"}, {"type": "InternalIP", "address": "2001:db8::1"}], "images": []}})
    }

    #[test]
    fn events_change_what_is_known() {
        let mut known = Known { nodes: BTreeMap::new(), version: "1".to_owned() };
        assert!(take(event("ADDED", described("a", "5", "10.0.1.0/24")), &mut known).unwrap());
        let node = &known.nodes["a"];
        assert_eq!((node.addresses.len(), node.subnets.len()), (2, 2));
        // A heartbeat changes nothing that counts here.
        assert!(!take(event("MODIFIED", described("a", "6", "10.0.1.0/24")), &mut known).unwrap());
        assert!(
            !take(event("BOOKMARK", json!({"kind": "Node", "metadata": {"resourceVersion": "9"}})), &mut known)
                .unwrap()
        );
        assert_eq!(known.version, "9");
        assert!(
            take(event("DELETED", described("a", "10", "10.0.1.0/24")), &mut known).unwrap() && known.nodes.is_empty()
        );
        let gone = json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired"});
        assert!(matches!(take(event("ERROR", gone), &mut known), Err(Failure::Gone)));
        assert!(matches!(
            take(event("ERROR", json!({"status": "Failure", "code": 500})), &mut known),
            Err(Failure::Status(_))
        ));
    }

    #[test]
    fn a_node_without_a_range_is_a_node() {
        let list: List = serde_json::from_value(json!({"metadata": {"resourceVersion": "1"}, "items": [{"metadata": {"name": "a"}, "spec": {}, "status": {}}]})).unwrap();
        let node = node(list.items.unwrap().remove(0));
        assert_eq!((node.name.as_str(), node.subnets.len()), ("a", 0));
    }
}
