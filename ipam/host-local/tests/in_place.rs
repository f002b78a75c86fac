//! A reservation overwritten in place by hand: the directory's time stays as it was, so the index doesn't notice.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy knows #[test] functions only

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::SystemTime;

use common::{Network, OURS, call, ip, verdict};
use serde_json::{Value, json};

const NAMES: [&str; 2] = ["10.0.0.2", "10.0.0.3"];

/// c1 holds .2 and c2 holds .3, and the index knows.
fn network() -> Network {
    let network = Network::new(json!([[{"subnet": "10.0.0.0/29"}]]));
    assert_eq!(network.add(OURS, "c1"), Ok(vec![ip("10.0.0.2")]));
    assert_eq!(network.add(OURS, "c2"), Ok(vec![ip("10.0.0.3")]));
    network
}

fn modified(network: &Network) -> SystemTime {
    fs::metadata(network.dir()).unwrap().modified().unwrap()
}

/// Overwrites the file as an editor that keeps the inode does.
fn overwrite(network: &Network, name: &str, content: &str) {
    let before = modified(network);
    fs::write(network.dir().join(name), content).unwrap();
    assert_eq!(modified(network), before, "this isn't what the test is about");
}

/// A configuration whose prevResult reports the attachment's addresses.
fn telling(network: &Network, addresses: &[&str]) -> Value {
    let ips: Vec<Value> =
        addresses.iter().map(|address| json!({"address": format!("{address}/29"), "interface": 0})).collect();
    let mut conf = network.conf_1_0();
    conf["prevResult"] = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}], "ips": ips});
    conf
}

#[test]
fn check_reads_the_reservation_itself() {
    let network = network();
    let check = |id: &str, address: &str| verdict(&call(OURS, "CHECK", id, &telling(&network, &[address])));
    check("c1", "10.0.0.2").unwrap();
    overwrite(&network, "10.0.0.2", "c2\r\neth0");
    // Of the new holder first: nothing has contradicted the index yet.
    check("c2", "10.0.0.2").unwrap();
    let refusal = check("c1", "10.0.0.2").unwrap_err();
    assert!(refusal.contains("found held by container c2 (eth0)"), "{refusal}");
    for content in ["", "kept for the printer", "c1\r\neth7"] {
        overwrite(&network, "10.0.0.3", content);
        check("c2", "10.0.0.3").unwrap_err();
    }
    overwrite(&network, "10.0.0.3", "c2\r\neth0");
    check("c2", "10.0.0.3").unwrap();
}

#[test]
fn del_never_removes_what_has_become_another_owners() {
    for content in ["c9\r\neth0", "c1\r\neth1", "c9", "kept for the printer"] {
        let network = network();
        overwrite(&network, "10.0.0.2", content);
        verdict(&call(OURS, "DEL", "c1", &telling(&network, &["10.0.0.2"]))).unwrap();
        network.del(OURS, "c1").unwrap();
        let expected = NAMES.map(ip).into_iter().zip([content.to_owned(), "c2\r\neth0".to_owned()]).collect();
        assert_eq!(network.reservations(), expected);
    }
}

#[test]
fn del_finds_what_has_become_the_owners() {
    let network = network();
    overwrite(&network, "10.0.0.2", "c2\r\neth0");
    // With one of them in prevResult it finds both: a contradiction makes it read everything.
    verdict(&call(OURS, "DEL", "c2", &telling(&network, &["10.0.0.2"]))).unwrap();
    assert!(network.reservations().is_empty(), "{:?}", network.reservations());
}

#[test]
fn del_without_a_previous_result_finds_it_after_the_next_contradiction() {
    let network = network();
    overwrite(&network, "10.0.0.2", "c2\r\neth0");
    network.del(OURS, "c1").unwrap();
    network.del(OURS, "c2").unwrap();
    assert!(network.reservations().is_empty(), "{:?}", network.reservations());
}

#[test]
fn add_never_gives_an_address_whose_file_says_a_holder() {
    let network = network();
    network.write("10.0.0.4", "");
    // The index is made, and counts the empty file's address as free.
    network.del(OURS, "none").unwrap();
    overwrite(&network, "10.0.0.4", "c9\r\neth0");
    assert_eq!(network.add(OURS, "c3"), Ok(vec![ip("10.0.0.5")]));
    assert_eq!(network.reservations()[&ip("10.0.0.4")], "c9\r\neth0");
    network.del(OURS, "c9").unwrap();
    assert!(!network.reservations().contains_key(&ip("10.0.0.4")));
}

#[test]
fn an_address_whose_file_was_emptied_can_be_asked_for_and_is_free_after_gc() {
    let network = network();
    overwrite(&network, "10.0.0.2", "");
    let mut asking = network.conf_1_0();
    asking["runtimeConfig"] = json!({"ips": ["10.0.0.2"]});
    verdict(&call(OURS, "ADD", "c3", &asking)).unwrap();
    assert_eq!(network.reservations()[&ip("10.0.0.2")], "c3\r\neth0");
    overwrite(&network, "10.0.0.3", "");
    for id in ["c4", "c5", "c6"] {
        network.add(OURS, id).unwrap();
    }
    let mut gc = network.conf();
    gc["cni.dev/valid-attachments"] =
        ["c3", "c4", "c5", "c6"].map(|id| json!({"containerID": id, "ifname": "eth0"})).into();
    verdict(&call(OURS, "GC", "", &gc)).unwrap();
    assert_eq!(network.add(OURS, "c7"), Ok(vec![ip("10.0.0.3")]));
}

#[test]
fn when_addresses_run_out_the_files_are_read_again_once_a_minute() {
    let network = network();
    for id in ["c3", "c4", "c5"] {
        network.add(OURS, id).unwrap();
    }
    overwrite(&network, "10.0.0.3", "");
    // The cache was made longer ago than a minute, which its header says at byte 48.
    let cache = fs::File::options().write(true).open(network.data_dir.join(".host-local/net")).unwrap();
    cache.write_all_at(&[0; 8], 48).unwrap();
    verdict(&call(OURS, "STATUS", "", &network.conf())).unwrap();
    assert_eq!(network.add(OURS, "c6"), Ok(vec![ip("10.0.0.3")]));
}

#[test]
fn gc_goes_by_what_the_files_say() {
    let network = network();
    overwrite(&network, "10.0.0.2", "c9\r\neth0");
    overwrite(&network, "10.0.0.3", "c1\r\neth0");
    let mut gc = network.conf();
    gc["cni.dev/valid-attachments"] = json!([{"containerID": "c1", "ifname": "eth0"}]);
    verdict(&call(OURS, "GC", "", &gc)).unwrap();
    assert_eq!(network.reservations(), [(ip("10.0.0.3"), "c1\r\neth0".to_owned())].into());
}
