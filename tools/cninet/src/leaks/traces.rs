//! Everything on the node that has an owner written on it, read through the crates that write it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cni_attach::mark;
use cni_net::{Link, Netlink};
use cni_netfilter::{Netfilter, Who, is_key};
use cni_plugin::{NetworkName, Owner, json};
use cni_runtime::NetworkList;
use serde_json::Value;

use crate::failure::Failure;
use crate::subnets;

/// Where tuning keeps the values from before ADD if its configuration doesn't say.
const TUNING: &str = "/run/cni/tuning";
/// Where these keep a file for each owner, whose name is the owner's key.
const BY_KEY: [(&str, &str); 2] = [("device", "/run/cni/host-device"), ("lease", "/run/cni/dhcp")];
/// The same, in a directory for each network.
const NAMES: &str = "/run/cni/dnsname";
/// No such file is longer, in bytes.
const LENGTH_MAX: u64 = 4 << 20;

/// Something with an owner on it.
#[derive(Debug, Clone)]
pub struct Trace {
    /// What kind of thing it is: `cache`, `link`, `address`, `rules`, `backup`, `device`, `lease`, `names`.
    pub kind: &'static str,
    /// Which one, in short.
    pub what: String,
    /// Where it is: a file, a directory, a table or chain of the packet filter.
    pub place: String,
    /// Whose.
    pub who: Who,
    /// The address, for one.
    pub address: Option<IpAddr>,
    /// Of a link: its other end is in a living namespace.
    pub lives: bool,
    /// How old it is, in seconds, where that is known.
    pub age: Option<u64>,
}

impl Trace {
    /// A trace without anything special.
    pub fn new(kind: &'static str, what: String, place: String, who: Who) -> Self {
        Self { kind, what, place, who, address: None, lives: false, age: None }
    }

    /// A file.
    pub fn of_file(kind: &'static str, path: &Path, who: Who) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { age: age(path), ..Self::new(kind, name, path.display().to_string(), who) }
    }
}

/// All traces but the cache's own files.
pub fn all(lists: &[&NetworkList]) -> Result<Vec<Trace>, Failure> {
    let mut traces = links()?;
    for dir in subnets::data_dirs(lists.iter().copied()) {
        traces.extend(addresses(&dir));
    }
    let inventory = Netfilter::new().inventory()?;
    let owned = inventory.into_iter().filter(|owned| !matches!(owned.who, Who::Unknown(_)));
    traces.extend(owned.map(|owned| {
        let place = owned.place.split(" chain ").next().unwrap_or_default().trim_start_matches("nftables table ");
        Trace::new("rules", format!("{} in {place}", owned.count), owned.place.clone(), owned.who)
    }));
    for dir in tuning_dirs(lists) {
        traces.extend(backups(&dir));
    }
    for (kind, dir) in BY_KEY {
        traces.extend(files_by_key(kind, Path::new(dir)));
    }
    for (_, dir) in entries(Path::new(NAMES)) {
        traces.extend(files_by_key("names", &dir));
    }
    Ok(traces)
}

/// Links of the node with marks.
fn links() -> Result<Vec<Trace>, Failure> {
    let links = Netlink::open()?.links()?;
    Ok(links.iter().flat_map(of_link).collect())
}

fn of_link(link: &Link) -> Vec<Trace> {
    let trace = |(kind, key, owner): (String, String, Option<Owner>)| {
        let by_key = Who::Key { key, container: None, ifname: None };
        let what =
            if kind.is_empty() { link.name.clone() } else { format!("{} ({})", link.name, kind.trim_end_matches('-')) };
        // The number that the kernel has given to the namespace of the other end.
        let lives = kind.is_empty() && link.peer_netnsid.is_some_and(|number| number >= 0);
        Trace { lives, ..Trace::new("link", what, "the node's links".to_owned(), owner.map_or(by_key, Who::Owner)) }
    };
    mark::read(link).into_iter().map(trace).collect()
}

/// Reservations of host-local below this directory: a directory for each network, in it a file for each address, in it the container
/// and its interface.
fn addresses(dir: &Path) -> Vec<Trace> {
    let mut traces = Vec::new();
    for (network, dir) in entries(dir) {
        for (name, file) in entries(&dir) {
            let Ok(address) = name.parse::<IpAddr>() else { continue };
            let Some(content) = read(&file) else { continue };
            let text = String::from_utf8_lossy(&content);
            let mut lines = text.trim().split("\r\n");
            let (Some(container), ifname) = (lines.next().filter(|id| !id.is_empty()), lines.next()) else { continue };
            let owner = ifname.and_then(|ifname| owner(&network, container, ifname));
            let whole = Who::OfNetwork { network: network.clone(), container: container.to_owned() };
            let trace =
                Trace::new("address", address.to_string(), dir.display().to_string(), owner.map_or(whole, Who::Owner));
            traces.push(Trace { address: Some(address), age: age(&file), ..trace });
        }
    }
    traces
}

fn owner(network: &str, container: &str, ifname: &str) -> Option<Owner> {
    let network: NetworkName = network.parse().ok()?;
    Some(Owner { network, container_id: container.parse().ok()?, ifname: ifname.parse().ok()? })
}

fn tuning_dirs(lists: &[&NetworkList]) -> BTreeSet<PathBuf> {
    let plugins = lists.iter().flat_map(|list| &list.plugins).filter(|plugin| plugin.plugin_type == "tuning");
    let configured = plugins.filter_map(|plugin| plugin.object.get("dataDir")?.as_str()).filter(|dir| !dir.is_empty());
    configured.map(PathBuf::from).chain([PathBuf::from(TUNING)]).collect()
}

/// tuning's files: `CONTAINER_IFNAME.json`; the network is in the content, unless the Go plugin wrote it.
fn backups(dir: &Path) -> Vec<Trace> {
    let trace = |(name, file): (String, PathBuf)| {
        let (container, ifname) = name.strip_suffix(".json")?.rsplit_once('_')?;
        let content = json::parse(&read(&file)?).unwrap_or_default();
        let network = content.get("network").and_then(Value::as_str);
        let known = network.and_then(|network| owner(network, container, ifname));
        let who = known.map_or_else(|| Who::Container(container.to_owned()), Who::Owner);
        Some(Trace::of_file("backup", &file, who))
    };
    entries(dir).into_iter().filter_map(trace).collect()
}

/// Files whose name is an owner's key; the content may name the owner.
fn files_by_key(kind: &'static str, dir: &Path) -> Vec<Trace> {
    let trace = |(name, file): (String, PathBuf)| {
        let key = name.strip_suffix(".json").unwrap_or(&name);
        if !is_key(key) {
            return None;
        }
        let content = json::parse(&read(&file)?).unwrap_or_default();
        let text = |key: &str| content.get(key).and_then(Value::as_str);
        // Of another node's container: cni-noded writes and removes it.
        if kind == "names" && text("node").is_some() {
            return None;
        }
        let named = || {
            owner(text("network")?, text("container").or(text("containerId"))?, text("ifname")?)
                .filter(|owner| owner.key() == key)
        };
        let by_key = || Who::Key { key: key.to_owned(), container: None, ifname: None };
        let who = named().map_or_else(by_key, Who::Owner);
        Some(Trace::of_file(kind, &file, who))
    };
    entries(dir).into_iter().filter_map(trace).collect()
}

/// The names in a directory, with their paths; none if it can't be listed.
fn entries(dir: &Path) -> Vec<(String, PathBuf)> {
    let entries = dir.read_dir().into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<(String, PathBuf)> =
        entries.filter_map(|entry| Some((entry.file_name().to_str()?.to_owned(), entry.path()))).collect();
    found.sort();
    found
}

/// A regular file's content, which plugins write whole.
fn read(file: &Path) -> Option<Vec<u8>> {
    if !file.symlink_metadata().ok()?.is_file() {
        return None;
    }
    cni_plugin::state::read_config(file, LENGTH_MAX).ok()
}

fn age(file: &Path) -> Option<u64> {
    let written = file.symlink_metadata().and_then(|found| found.modified()).ok()?;
    Some(SystemTime::now().duration_since(written).unwrap_or_default().as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_name_their_holders() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join("net").join(name), text).unwrap();
        std::fs::create_dir(dir.path().join("net")).unwrap();
        write("10.0.0.2", "c1\r\neth0");
        write("10.0.0.3", "c2");
        write("10.0.0.4", "");
        write("last_reserved_ip.0", "10.0.0.3");
        write("lock", "");
        let found = addresses(dir.path());
        let who: Vec<&Who> = found.iter().map(|trace| &trace.who).collect();
        let old = Who::OfNetwork { network: "net".to_owned(), container: "c2".to_owned() };
        assert_eq!(who, [&Who::Owner(owner("net", "c1", "eth0").unwrap()), &old]);
        assert!(found.iter().all(|trace| trace.age == Some(0) && trace.address.is_some()));
    }

    #[test]
    fn backups_and_files_by_key_name_their_owners() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let own = owner("net", "c_1", "eth0").unwrap();
        write("c_1_eth0.json", r#"{"network": "net", "mtu": 1500}"#);
        write("c2_eth0.json", "{}");
        write("lock", "");
        let found = backups(dir.path());
        assert_eq!(found.len(), 2);
        assert_eq!((&found[0].who, &found[1].who), (&Who::Container("c2".to_owned()), &Who::Owner(own.clone())));
        write(&own.key(), r#"{"network": "net", "container": "c_1", "ifname": "eth0"}"#);
        write(&format!("{}.json", "0".repeat(16) + "-" + &"1".repeat(16)), "{");
        let found = files_by_key("names", dir.path());
        assert_eq!(found.len(), 2);
        assert!(found.iter().any(|trace| trace.who == Who::Owner(own.clone())));
    }
}
