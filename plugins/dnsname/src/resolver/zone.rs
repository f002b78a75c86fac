//! The names that containers have, and what each of them may see. Knows no file, socket or message.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use cni_plugin::ContainerId;
use ipnetwork::IpNetwork;

use crate::name::{Name, below};
use crate::record::Record;

/// A file's record.
#[derive(Debug)]
pub struct Held {
    record: Record,
    /// That of the file.
    directory: String,
    /// The network as a domain: in small letters.
    as_domain: String,
}

impl std::ops::Deref for Held {
    type Target = Record;
    fn deref(&self) -> &Record {
        &self.record
    }
}

/// A network's names.
#[derive(Debug, Default)]
struct Network {
    files: HashMap<String, Rc<Held>>,
    names: HashMap<Name, Vec<Rc<Held>>>,
    addresses: HashMap<IpAddr, Rc<Held>>,
}

/// All names.
#[derive(Debug, Default)]
pub struct Zone {
    /// By the directory of their files.
    networks: HashMap<String, Network>,
    /// Who asks, by the address of the node that is asked and the client's own.
    clients: HashMap<(IpAddr, IpAddr), Rc<Held>>,
    containers: HashMap<ContainerId, Vec<Rc<Held>>>,
    /// The addresses that are asked, with how many containers ask there, by directory.
    servers: HashMap<IpAddr, BTreeMap<String, usize>>,
}

/// What a client may see: the networks of these attachments.
#[derive(Debug)]
pub struct View<'z> {
    zone: &'z Zone,
    records: Cow<'z, [Rc<Held>]>,
}

/// What is known of a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Known {
    /// These addresses have it, of both families.
    Addresses(Vec<IpAddr>),
    /// Nobody has it, and nobody else may know it: it is in a domain of the client's networks.
    Nobody,
    /// It is such a domain itself.
    Domain,
    /// Another server may know it.
    Foreign,
}

impl Zone {
    /// True if there is no file.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// The addresses at which containers ask.
    pub fn servers(&self) -> impl Iterator<Item = IpAddr> {
        self.servers.keys().copied()
    }

    /// The record of a file.
    pub fn entry(&self, directory: &str, key: &str) -> Option<&Held> {
        self.networks.get(directory)?.files.get(key).map(AsRef::as_ref)
    }

    /// Takes over a file's record, in the place of what it said before.
    pub fn insert(&mut self, directory: &str, key: &str, record: Record) {
        self.remove(directory, key);
        let as_domain = record.network.as_str().to_ascii_lowercase();
        let record = Rc::new(Held { record, directory: directory.to_owned(), as_domain });
        let network = self.networks.entry(directory.to_owned()).or_default();
        network.files.insert(key.to_owned(), Rc::clone(&record));
        for name in &record.names {
            network.names.entry(name.clone()).or_default().push(Rc::clone(&record));
        }
        for address in &record.addresses {
            network.addresses.insert(address.ip(), Rc::clone(&record));
        }
        for server in &record.servers {
            *self.servers.entry(*server).or_default().entry(directory.to_owned()).or_default() += 1;
            for address in &record.addresses {
                self.clients.insert((*server, address.ip()), Rc::clone(&record));
            }
        }
        self.containers.entry(record.container_id.clone()).or_default().push(record);
    }

    /// Forgets a file. Idempotent.
    pub fn remove(&mut self, directory: &str, key: &str) {
        let Some(network) = self.networks.get_mut(directory) else { return };
        let Some(record) = network.files.remove(key) else { return };
        let is_other = |other: &Rc<Held>| !Rc::ptr_eq(other, &record);
        for name in &record.names {
            retain_in(&mut network.names, name, is_other);
        }
        for address in &record.addresses {
            if network.addresses.get(&address.ip()).is_some_and(|other| !is_other(other)) {
                network.addresses.remove(&address.ip());
            }
        }
        if network.files.is_empty() {
            self.networks.remove(directory);
        }
        for server in &record.servers {
            for key in record.addresses.iter().map(|address| (*server, address.ip())) {
                if self.clients.get(&key).is_some_and(|other| !is_other(other)) {
                    self.clients.remove(&key);
                }
            }
            self.leave_server(*server, directory);
        }
        retain_in(&mut self.containers, &record.container_id, is_other);
    }

    fn leave_server(&mut self, server: IpAddr, directory: &str) {
        let Some(users) = self.servers.get_mut(&server) else { return };
        if let Some(count) = users.get_mut(directory) {
            *count -= 1;
            if *count == 0 {
                users.remove(directory);
            }
        }
        if users.is_empty() {
            self.servers.remove(&server);
        }
    }

    /// Forgets a network's files. Idempotent.
    pub fn remove_directory(&mut self, directory: &str) {
        let keys = self.networks.get(directory).map(|network| network.files.keys().cloned().collect::<Vec<_>>());
        for key in keys.unwrap_or_default() {
            self.remove(directory, &key);
        }
    }

    /// What a client that asks at `server` may see: the networks of its container. The node itself sees those that are asked there.
    /// `None` for a stranger.
    pub fn view(&self, server: IpAddr, client: IpAddr) -> Option<View<'_>> {
        if client == server {
            let first = |directory: &String| self.networks.get(directory)?.files.values().next().cloned();
            let records: Vec<Rc<Held>> = self.servers.get(&server)?.keys().filter_map(first).collect();
            return Some(View { zone: self, records: records.into() });
        }
        let record = self.clients.get(&(server, client))?;
        Some(self.view_of(record))
    }

    fn view_of(&self, record: &Held) -> View<'_> {
        let records = self.containers.get(&record.container_id).map_or(&[][..], Vec::as_slice);
        View { zone: self, records: records.into() }
    }

    /// What an attachment's container finds under its own names.
    pub fn found_by(&self, record: &Held) -> Vec<(Name, Vec<IpAddr>)> {
        let view = self.view_of(record);
        let find = |name: &Name| match view.find(name.as_str()) {
            Known::Addresses(found) => found,
            _ => Vec::new(),
        };
        record.names.iter().map(|name| (name.clone(), find(name))).collect()
    }

    fn network_of(&self, record: &Held) -> Option<&Network> {
        self.networks.get(&record.directory)
    }
}

fn retain_in<K: Eq + std::hash::Hash>(map: &mut HashMap<K, Vec<Rc<Held>>>, key: &K, keep: impl Fn(&Rc<Held>) -> bool) {
    if let Some(records) = map.get_mut(key) {
        records.retain(keep);
        if records.is_empty() {
            map.remove(key);
        }
    }
}

impl View<'_> {
    /// What is known of a name, in small letters and without the final dot.
    pub fn find(&self, name: &str) -> Known {
        let mut found: Vec<IpAddr> = Vec::new();
        let (mut is_domain, mut is_below) = (false, false);
        for record in self.records.iter() {
            let domain = record.domain.as_ref().map(Name::as_str);
            is_domain |= domain == Some(name);
            let in_domain = domain.and_then(|domain| below(name, domain));
            is_below |= in_domain.is_some();
            let in_network = below(name, &record.as_domain);
            let Some(network) = self.zone.network_of(record) else { continue };
            for candidate in [Some(name), in_domain, in_network].into_iter().flatten() {
                let holders = network.names.get(candidate).into_iter().flatten();
                for address in holders.flat_map(|holder| &holder.addresses).map(IpNetwork::ip) {
                    if !found.contains(&address) {
                        found.push(address);
                    }
                }
            }
        }
        match (found.is_empty(), is_domain, is_below) {
            (false, ..) => Known::Addresses(found),
            (true, true, _) => Known::Domain,
            (true, false, true) => Known::Nobody,
            (true, false, false) => Known::Foreign,
        }
    }

    /// The full name of an address: `Ok(None)` if nobody has it in the client's subnets, `Err` if it is elsewhere.
    pub fn name_of(&self, address: IpAddr) -> Result<Option<String>, ()> {
        let mut is_ours = false;
        for record in self.records.iter() {
            is_ours |= record.addresses.iter().any(|own| own.contains(address));
            let holder = self.zone.network_of(record).and_then(|network| network.addresses.get(&address));
            if let Some((holder, name)) = holder.and_then(|holder| Some((holder, holder.names.first()?))) {
                let domain = holder.domain.as_ref().map_or(holder.as_domain.as_str(), Name::as_str);
                return Ok(Some(format!("{name}.{domain}")));
            }
        }
        if is_ours { Ok(None) } else { Err(()) }
    }

    /// The servers that other names may be asked from: `Err` if no network of the client has a way out, `Ok(None)` for the node's.
    pub fn upstream(&self) -> Result<Option<Vec<SocketAddr>>, ()> {
        let may_ask =
            |record: &&Rc<Held>| record.has_way_out && record.upstream.as_ref().is_none_or(|list| !list.is_empty());
        self.records.iter().find(may_ask).map(|record| record.upstream.clone()).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(network: &str, id: &str, address: &str, names: &[&str]) -> Record {
        let server = format!("{}.1", address.rsplit_once('.').unwrap().0);
        let value = json!({
            "network": network, "containerId": id, "ifname": "eth0", "interface": "br0", "addresses": [format!("{address}/24")],
            "servers": [server], "names": names, "domain": "dns.test", "hasWayOut": network != "closed", "intercept": false,
        });
        serde_json::from_value(value).unwrap()
    }

    fn zone() -> Zone {
        let mut zone = Zone::default();
        for (network, id, address, names) in [
            ("a", "c1", "10.0.1.2", &["web", "www"][..]),
            ("a", "c2", "10.0.1.3", &["db", "web"]),
            ("b", "c2", "10.0.2.3", &["db"]),
            ("b", "c3", "10.0.2.4", &["cache"]),
            ("closed", "c4", "10.0.3.4", &["alone"]),
        ] {
            zone.insert(network, id, record(network, id, address, names));
        }
        zone
    }

    fn find(zone: &Zone, server: &str, client: &str, name: &str) -> Known {
        zone.view(server.parse().unwrap(), client.parse().unwrap()).unwrap().find(name)
    }

    fn addresses(list: &[&str]) -> Known {
        Known::Addresses(list.iter().map(|address| address.parse().unwrap()).collect())
    }

    #[test]
    fn a_container_sees_all_its_networks_and_no_other() {
        let zone = zone();
        assert_eq!(find(&zone, "10.0.1.1", "10.0.1.2", "web"), addresses(&["10.0.1.2", "10.0.1.3"]));
        assert_eq!(find(&zone, "10.0.1.1", "10.0.1.2", "cache"), Known::Foreign);
        assert_eq!(find(&zone, "10.0.1.1", "10.0.1.2", "cache.dns.test"), Known::Nobody);
        assert_eq!(find(&zone, "10.0.1.1", "10.0.1.2", "dns.test"), Known::Domain);
        assert_eq!(find(&zone, "10.0.1.1", "10.0.1.2", "cache.b"), Known::Foreign);
        // c2 is on both, and asks at either.
        for (server, client) in [("10.0.1.1", "10.0.1.3"), ("10.0.2.1", "10.0.2.3")] {
            assert_eq!(find(&zone, server, client, "cache.dns.test"), addresses(&["10.0.2.4"]));
            assert_eq!(find(&zone, server, client, "www.a"), addresses(&["10.0.1.2"]));
            assert_eq!(find(&zone, server, client, "db"), addresses(&["10.0.1.3", "10.0.2.3"]));
        }
        assert!(zone.view("10.0.2.1".parse().unwrap(), "10.0.1.2".parse().unwrap()).is_none());
        assert_eq!(find(&zone, "10.0.2.1", "10.0.2.1", "cache"), addresses(&["10.0.2.4"]));
    }

    #[test]
    fn addresses_have_their_full_name() {
        let zone = zone();
        let view = zone.view("10.0.1.1".parse().unwrap(), "10.0.1.2".parse().unwrap()).unwrap();
        assert_eq!(view.name_of("10.0.1.3".parse().unwrap()), Ok(Some("db.dns.test".to_owned())));
        assert_eq!(view.name_of("10.0.1.9".parse().unwrap()), Ok(None));
        assert_eq!(view.name_of("10.0.2.4".parse().unwrap()), Err(()));
    }

    #[test]
    fn a_network_without_a_way_out_has_no_upstream() {
        let zone = zone();
        let upstream = |server: &str, client: &str| {
            zone.view(server.parse().unwrap(), client.parse().unwrap()).unwrap().upstream()
        };
        assert_eq!(upstream("10.0.3.1", "10.0.3.4"), Err(()));
        assert_eq!(upstream("10.0.1.1", "10.0.1.2"), Ok(None));
    }

    #[test]
    fn what_is_removed_leaves_nothing() {
        let mut zone = zone();
        zone.remove("a", "c2");
        zone.remove("a", "c2");
        assert_eq!(find(&zone, "10.0.1.1", "10.0.1.2", "web"), addresses(&["10.0.1.2"]));
        for (directory, key) in [("a", "c1"), ("b", "c2"), ("b", "c3")] {
            zone.remove(directory, key);
        }
        zone.remove_directory("closed");
        assert!(zone.is_empty() && zone.clients.is_empty() && zone.containers.is_empty() && zone.servers.is_empty());
    }
}
