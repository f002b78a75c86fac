//! Names of containers across nodes: what the plugin `dnsname` has written for this node's containers of a network is published, and what
//! other nodes publish is written beside it, where the plugin's resolver reads it.
//!
//! A file of another node's container has the key `node`, by which the plugin and this program know it, and no servers: nobody asks there.
//! There are such files as long as this node has containers of its own in the network, so that the resolver ends with the last of them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use cni_plugin::state::{self, StateDir};
use cni_plugin::{ContainerId, IfName, NetworkName, Owner};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Session;
use crate::log;
use crate::settings;

/// Where the plugin has a directory for each network.
const DIRECTORY: &str = "/run/cni/dnsname";
/// The resolver's group may read it; the directory gives the group.
const MODE: u32 = 0o640;
/// How soon a change is seen.
const TICK: Duration = Duration::from_millis(200);
/// So often, in ticks, the files are also compared without a sign of a change: another program may have written in one.
const UNASKED: u32 = 50;
/// The longest file.
const MAX: u64 = 1 << 20;

/// What a container is found by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Names {
    container_id: ContainerId,
    ifname: IfName,
    interface: IfName,
    addresses: Vec<String>,
    names: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
}

/// The names that other nodes publish.
#[derive(Debug, Clone, Default)]
pub struct Others(Arc<Mutex<BTreeMap<String, Vec<Names>>>>);

impl Others {
    /// A node's names from now on; none if there are none or they are not understood.
    pub fn set(&self, node: &str, published: Option<&[u8]>) {
        let names = published.and_then(|text| serde_json::from_slice::<Vec<Names>>(text).ok()).unwrap_or_default();
        let mut others = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.is_empty() {
            others.remove(node);
        } else {
            others.insert(node.to_owned(), names);
        }
    }

    fn all(&self) -> BTreeMap<String, Vec<Names>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Publishes and writes names until the session is over.
pub fn keep(mut session: Session, settings: &settings::Etcd, network: &NetworkName, others: &Others) {
    let key = settings.key(&format!("names/{}", settings.node));
    let mut exchange = Exchange {
        network,
        directory: Path::new(DIRECTORY).join(state::file_name(network.as_str(), "")),
        published: None,
        failure: String::new(),
    };
    let (mut settled, mut ticks) = (None, 0u32);
    while !session.is_over() {
        let now = (changed(&exchange.directory), others.all());
        if settled.as_ref() != Some(&now) || ticks >= UNASKED {
            ticks = 0;
            let Session { etcd, lease, .. } = &mut session;
            let publish =
                |text: &str| etcd.put_all(*lease, &[], &[(key.clone(), text.to_owned())]).is_ok_and(|done| done);
            settled = exchange.round(&now.1, publish).then_some(now);
        }
        ticks += 1;
        thread::sleep(TICK);
    }
}

/// The names of this node's containers go out, those of others' come in.
struct Exchange<'n> {
    network: &'n NetworkName,
    /// Of the network, with a file for each container.
    directory: PathBuf,
    published: Option<String>,
    /// Why files could not be written; empty if they were.
    failure: String,
}

impl Exchange<'_> {
    /// True if everything is published and written.
    fn round(&mut self, others: &BTreeMap<String, Vec<Names>>, publish: impl FnOnce(&str) -> bool) -> bool {
        let (own, remote) = local(&self.directory);
        let text = json!(own).to_string();
        if self.published.as_ref() != Some(&text) && publish(&text) {
            self.published = Some(text.clone());
        }
        let wanted = if own.is_empty() { BTreeMap::new() } else { files(self.network, others) };
        let written = write(&self.directory, &remote, &wanted);
        let failure = written.err().map(|error| error.to_string()).unwrap_or_default();
        if failure != self.failure && !failure.is_empty() {
            log::line(&format!("cannot write names in {}: {failure}", self.directory.display()));
        }
        self.failure = failure;
        self.published.as_ref() == Some(&text) && self.failure.is_empty()
    }
}

/// When a file came, went or was replaced.
fn changed(directory: &Path) -> Option<(i64, i64)> {
    fs::metadata(directory).ok().map(|found| (found.mtime(), found.mtime_nsec()))
}

/// The names of this node's containers, and the files of other nodes' with what they say.
fn local(directory: &Path) -> (Vec<Names>, BTreeMap<String, Value>) {
    let (mut own, mut remote) = (Vec::new(), BTreeMap::new());
    let Ok(Some(opened)) = StateDir::open(directory, false) else { return (own, remote) };
    let mut names = opened.names().unwrap_or_default();
    names.sort_unstable();
    for name in names.into_iter().filter(|name| !name.starts_with('.')) {
        let Ok(state::Entry::File(content)) = opened.read(&name, MAX) else { continue };
        let Ok(value) = serde_json::from_slice::<Value>(&content) else { continue };
        if value.get("node").is_some() {
            remote.insert(name, value);
        } else {
            own.extend(serde_json::from_value(value).ok() as Option<Names>);
        }
    }
    (own, remote)
}

/// The files that there should be of other nodes' containers.
fn files(network: &NetworkName, others: &BTreeMap<String, Vec<Names>>) -> BTreeMap<String, Value> {
    let mut files = BTreeMap::new();
    for (node, all) in others {
        for names in all {
            let owner = Owner {
                network: network.clone(),
                container_id: names.container_id.clone(),
                ifname: names.ifname.clone(),
            };
            let mut value = json!(names);
            let further =
                json!({"node": node, "network": network, "servers": [], "hasWayOut": false, "intercept": false});
            if let (Some(value), Value::Object(further)) = (value.as_object_mut(), further) {
                value.extend(further);
            }
            files.insert(owner.key(), value);
        }
    }
    files
}

fn write(
    directory: &PathBuf,
    present: &BTreeMap<String, Value>,
    wanted: &BTreeMap<String, Value>,
) -> std::io::Result<()> {
    let Some(opened) = StateDir::open(directory, false)? else { return Ok(()) };
    for (name, value) in wanted.iter().filter(|(name, value)| present.get(*name) != Some(value)) {
        opened.replace_with_mode(name, value.to_string().as_bytes(), MODE)?;
    }
    for name in present.keys().filter(|name| !wanted.contains_key(*name)) {
        opened.remove_with_unfinished(name)?;
    }
    if wanted.is_empty() && !present.is_empty() {
        // As the plugin does with a network's directory; unless it has one again.
        let _ = fs::remove_dir(directory);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_nodes_have_a_file_each_and_no_servers() {
        let others = Others::default();
        let text = br#"[{"containerId":"c1","ifname":"eth0","interface":"br0","addresses":["10.42.1.2/16"],"names":["web","c1"]}]"#;
        others.set("n2", Some(text));
        others.set("n3", Some(b"[]"));
        let network: NetworkName = "pods".parse().unwrap();
        let wanted = files(&network, &others.all());
        let value = wanted.values().next().unwrap();
        assert_eq!(
            (wanted.len(), &value["node"], &value["servers"], &value["names"][0]),
            (1, &json!("n2"), &json!([]), &json!("web"))
        );
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        write(&path, &BTreeMap::new(), &wanted).unwrap();
        fs::write(path.join("own"), text.strip_prefix(b"[").unwrap().strip_suffix(b"]").unwrap()).unwrap();
        let (own, remote) = local(&path);
        assert_eq!((own.len(), &remote), (1, &wanted));
        write(&path, &remote, &BTreeMap::new()).unwrap();
        assert_eq!(local(&path).1, BTreeMap::new());
        others.set("n2", None);
        assert!(others.all().is_empty());
    }
}
