//! What must hold for whatever bytes are read: from stdin, from the environment, from the state on disk. The fuzz target calls
//! it, and a test with every seed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "properties are assertions")]

mod index;
mod last_reserved;
mod reservation;
mod settings;
#[macro_use]
#[path = "../../../../tests/fuzz/stdin.rs"]
mod stdin;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;

use cni_plugin::Owner;
use tempfile::TempDir;

use crate::config::RangeKeys;
use crate::pool::Address;
use crate::pool::RangeSet;
use crate::store::Place;

target!("host_local", holds);

/// The first line says what the rest is: a file of the state, a resolver's configuration, or by its verb the configuration.
fn holds(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (kind, rest) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    match kind {
        b"index" => index::holds(rest),
        b"last_reserved" => last_reserved::holds(rest),
        b"reservation" => reservation::holds(rest),
        b"resolv_conf" => settings::resolv_conf_holds(rest),
        _ => stdin::holds(&settings::PROBE, data),
    }
}

/// A network in a directory of its own, with these addresses: .1 is the gateway, .2 to .14 are usable.
struct Network {
    data_dir: TempDir,
    place: Place,
    set: RangeSet,
}

impl Network {
    fn new() -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let place =
            Place { data_dir: data_dir.path().into(), network: "net".parse().unwrap(), reclaim_after_reboot: false };
        let keys = RangeKeys { subnet: "10.0.0.0/28".into(), ..RangeKeys::default() };
        Self { data_dir, place, set: RangeSet::resolve(&[keys]).unwrap() }
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::create_dir_all(self.data_dir.path().join("net")).unwrap();
        fs::write(self.data_dir.path().join("net").join(name), content).unwrap();
    }

    /// Every reservation as it is on disk.
    fn files(&self) -> BTreeMap<Address, Vec<u8>> {
        let entries = fs::read_dir(self.data_dir.path().join("net")).unwrap().map(Result::unwrap);
        let address = |name: &str| Some(Address::from(name.parse::<IpAddr>().ok()?));
        entries
            .filter_map(|entry| Some((address(entry.file_name().to_str()?)?, fs::read(entry.path()).unwrap())))
            .collect()
    }

    /// As ADD does it: the next free address, with the round going on where it stopped.
    fn add(&self, owner: &Owner) -> Option<Address> {
        let before = self.files_if_any();
        let mut store = self.place.create().unwrap();
        let ip = loop {
            let (ip, _) = store.next(&self.set, 0).unwrap()?;
            match store.reserve(ip, owner) {
                Ok(()) => break ip,
                Err(_) => drop(store.rebuild().unwrap()),
            }
        };
        store.set_last_reserved(0, ip);
        let reserved = |content: &Vec<u8>| crate::store::Holder::parse(content).is_some();
        assert!(!before.get(&ip).is_some_and(reserved), "{ip} was handed out twice");
        Some(ip)
    }

    fn files_if_any(&self) -> BTreeMap<Address, Vec<u8>> {
        if self.data_dir.path().join("net").exists() { self.files() } else { BTreeMap::new() }
    }

    /// As DEL does it; what was released.
    fn del(&self, owner: &Owner, reported: &[Address]) -> Vec<Address> {
        let before = self.files();
        let mut store = self.place.create().unwrap();
        let mut released = store.held_by(owner, reported).unwrap();
        released.retain(|ip| store.release(*ip, |holder| holder.is(owner) || holder.is_container_of(owner)).unwrap());
        drop(store);
        let mut left = before.clone();
        left.retain(|ip, _| !released.contains(ip));
        assert_eq!(self.files(), left, "what is not released stays as it is");
        for ip in &released {
            let go = String::from_utf8_lossy(&before[ip]).trim().to_owned();
            let id = owner.container_id.as_str();
            assert!(go == format!("{id}\r\n{}", owner.ifname) || go == id, "{ip} was not {owner:?}'s: {go:?}");
        }
        released
    }
}

fn owner(container_id: &str, ifname: &str) -> Owner {
    Owner {
        network: "net".parse().unwrap(),
        container_id: container_id.parse().unwrap(),
        ifname: ifname.parse().unwrap(),
    }
}

fn ip(host: u8) -> Address {
    IpAddr::from([10, 0, 0, host]).into()
}
