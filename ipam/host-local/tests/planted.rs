//! Links, FIFOs and directories planted in the data directory: nothing outside is read or written through them.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy knows #[test] functions only

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use common::{Network, OURS, call, ip, verdict};
use serde_json::json;

const SECRET: &str = "c1\r\neth0";

/// A network with one reservation, and a file outside of its state.
fn network() -> (Network, PathBuf) {
    let network = Network::new(json!([[{"subnet": "10.0.0.0/29"}]]));
    network.add(OURS, "c0").unwrap();
    let outside = network.data_dir.join("outside");
    fs::write(&outside, SECRET).unwrap();
    (network, outside)
}

/// ADD, CHECK, GC and DEL work as ever, and the file is as it was.
fn lives_with_it(network: &Network, outside: &Path) {
    let ips = network.add(OURS, "c1").unwrap();
    assert_eq!(fs::read(network.dir().join(ips[0].to_string())).unwrap(), b"c1\r\neth0");
    assert_eq!(fs::read_to_string(network.dir().join("last_reserved_ip.0")).unwrap(), ips[0].to_string());
    verdict(&call(OURS, "CHECK", "c1", &network.conf())).unwrap();
    let mut gc = network.conf();
    gc["cni.dev/valid-attachments"] = json!([{"containerID": "c1", "ifname": "eth0"}]);
    verdict(&call(OURS, "GC", "", &gc)).unwrap();
    network.del(OURS, "c1").unwrap();
    assert!(!network.dir().join(ips[0].to_string()).exists());
    assert_eq!(fs::read_to_string(outside).unwrap(), SECRET);
}

#[test]
fn links_in_place_of_the_cache() {
    for plant in [|from: &Path, to: &Path| symlink(from, to), |from: &Path, to: &Path| fs::hard_link(from, to)] {
        let (network, outside) = network();
        let cache = network.data_dir.join(".host-local/net");
        fs::remove_file(&cache).unwrap();
        plant(&outside, &cache).unwrap();
        lives_with_it(&network, &outside);
    }
    let (network, outside) = network();
    let elsewhere = network.data_dir.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::remove_dir_all(network.data_dir.join(".host-local")).unwrap();
    symlink(&elsewhere, network.data_dir.join(".host-local")).unwrap();
    lives_with_it(&network, &outside);
    assert_eq!(fs::read_dir(elsewhere).unwrap().count(), 0);
}

#[test]
fn other_things_in_place_of_the_cache() {
    let (network, outside) = network();
    let cache = network.data_dir.join(".host-local/net");
    fs::remove_file(&cache).unwrap();
    fs::create_dir(&cache).unwrap();
    lives_with_it(&network, &outside);
    fs::remove_dir_all(network.data_dir.join(".host-local")).unwrap();
    fs::write(network.data_dir.join(".host-local"), SECRET).unwrap();
    lives_with_it(&network, &outside);
}

#[test]
fn a_hard_link_in_place_of_the_last_address() {
    let (network, outside) = network();
    let last = network.dir().join("last_reserved_ip.0");
    fs::remove_file(&last).unwrap();
    fs::hard_link(&outside, &last).unwrap();
    lives_with_it(&network, &outside);
}

#[test]
fn links_and_directories_in_place_of_reservations_have_no_holder() {
    let (network, outside) = network();
    symlink(&outside, network.dir().join("10.0.0.3")).unwrap();
    fs::create_dir(network.dir().join("10.0.0.4")).unwrap();
    symlink("nowhere", network.dir().join("10.0.0.5")).unwrap();
    // c1 is who the file outside names, and holds nothing here.
    verdict(&call(OURS, "CHECK", "c1", &network.conf())).unwrap_err();
    network.del(OURS, "c1").unwrap();
    assert_eq!(network.add(OURS, "c2"), Ok(vec![ip("10.0.0.6")]));
    let full = network.add(OURS, "c3").unwrap_err();
    assert!(full.contains("no IP addresses available"), "{full}");
    network.del(OURS, "c2").unwrap();
    lives_with_it(&network, &outside);
    assert!(network.dir().join("10.0.0.3").is_symlink() && network.dir().join("10.0.0.4").is_dir());
    assert!(!network.dir().join("nowhere").exists());
}
