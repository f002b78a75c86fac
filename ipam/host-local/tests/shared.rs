//! One directory, two plugins: ours and the Go plugin's take turns, and work at the same time.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // clippy knows #[test] functions only

mod common;

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::{Network, OURS, addresses, call, command, go, ip, run, verdict};
use serde_json::json;

#[test]
fn go_ours_go() {
    let Some(go) = go() else { return };
    let network = Network::new(json!([[{"subnet": "10.0.0.0/29"}], [{"subnet": "fd00:9:0::/64"}]]));
    let conf = network.conf_1_0();
    assert_eq!(network.add(go, "c1"), Ok(vec![ip("10.0.0.2"), ip("fd00:9::2")]));
    assert_eq!(network.add(OURS, "c2"), Ok(vec![ip("10.0.0.3"), ip("fd00:9::3")]));
    assert_eq!(network.add(go, "c3"), Ok(vec![ip("10.0.0.4"), ip("fd00:9::4")]));
    for plugin in [go, OURS] {
        for id in ["c1", "c2", "c3"] {
            verdict(&call(plugin, "CHECK", id, &conf)).unwrap();
            let repeated = network.add(plugin, id).unwrap_err();
            assert!(repeated.contains("duplicate allocation is not allowed"), "{repeated}");
        }
        verdict(&call(plugin, "CHECK", "c9", &conf)).unwrap_err();
    }
    assert_eq!(network.reservations().len(), 6);
    for (name, content) in network.reservations() {
        assert!(["c1\r\neth0", "c2\r\neth0", "c3\r\neth0"].contains(&content.as_str()), "{name}: {content:?}");
    }
    assert_eq!(fs::read_to_string(network.dir().join("last_reserved_ip.0")).unwrap(), "10.0.0.4");
    network.del(OURS, "c1").unwrap();
    network.del(go, "c2").unwrap();
    verdict(&call(go, "CHECK", "c1", &conf)).unwrap_err();
    verdict(&call(OURS, "CHECK", "c2", &conf)).unwrap_err();
    assert_eq!(network.add(OURS, "c4").unwrap()[0], ip("10.0.0.5"));
    assert_eq!(network.add(go, "c5").unwrap()[0], ip("10.0.0.6"));
    assert_eq!(network.add(OURS, "c6").unwrap()[0], ip("10.0.0.2"));
    assert_eq!(network.add(go, "c7").unwrap()[0], ip("10.0.0.3"));
    assert!(network.add(OURS, "c8").unwrap_err().contains("no IP addresses available in range set: 10.0.0.1-10.0.0.6"));
    for id in ["c3", "c5", "c7"] {
        network.del(OURS, id).unwrap();
    }
    for id in ["c4", "c6"] {
        network.del(go, id).unwrap();
    }
    assert!(network.reservations().is_empty());
}

#[test]
fn reservations_without_an_interface_count_for_their_container() {
    let plugins = [Some(OURS), go()];
    for plugin in plugins.into_iter().flatten() {
        let network = Network::new(json!([[{"subnet": "10.0.0.0/29"}]]));
        network.write("10.0.0.4", "old\n");
        verdict(&call(plugin, "CHECK", "old", &network.conf_1_0())).unwrap();
        let repeated = network.add(plugin, "old").unwrap_err();
        assert!(repeated.starts_with("failed to allocate") || repeated.starts_with("10.0.0.4 has been"), "{repeated}");
        network.del(plugin, "old").unwrap();
        assert!(network.reservations().is_empty(), "{plugin}");
    }
}

/// 200 containers come and go at the same time, by both plugins.
#[test]
fn two_hundred_at_once() {
    let network = Network::new(json!([[{"subnet": "10.0.0.0/24"}]]));
    let plugins: Vec<&str> = [Some(OURS), go()].into_iter().flatten().collect();
    let holders: Mutex<HashMap<IpAddr, String>> = Mutex::default();
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= 600 {
                break;
            }
            let id = format!("c{n}");
            let ips = network.add(plugins[n % plugins.len()], &id).unwrap();
            let before = holders.lock().unwrap().insert(ips[0], id.clone());
            assert_eq!(before, None, "{} is held twice", ips[0]);
            // Held for a while by some, so that the range fills.
            if n.is_multiple_of(3) {
                thread::yield_now();
            }
            let content = fs::read_to_string(network.dir().join(ips[0].to_string())).unwrap();
            assert_eq!(content, format!("{id}\r\neth0"));
            holders.lock().unwrap().remove(&ips[0]);
            network.del(plugins[n / 2 % plugins.len()], &id).unwrap();
        }
    };
    thread::scope(|scope| {
        for _ in 0..200 {
            scope.spawn(work);
        }
    });
    assert_eq!(network.reservations().into_iter().collect::<Vec<_>>(), []);
}

/// More containers than addresses: exactly as many succeed as there are addresses.
#[test]
fn parallel_adds_fill_the_range_exactly() {
    let network = Network::new(json!([[{"subnet": "10.0.0.0/26"}]]));
    let plugins: Vec<&str> = [Some(OURS), go()].into_iter().flatten().collect();
    let given: Vec<Option<Vec<IpAddr>>> = thread::scope(|scope| {
        let (network, plugins) = (&network, &plugins);
        let adds: Vec<_> = (0..120)
            .map(|n| scope.spawn(move || network.add(plugins[n % plugins.len()], &format!("c{n}")).ok()))
            .collect();
        adds.into_iter().map(|add| add.join().unwrap()).collect()
    });
    let mut given: Vec<IpAddr> = given.into_iter().flatten().flatten().collect();
    given.sort_unstable();
    given.dedup();
    assert_eq!(given.len(), 61);
    assert_eq!(network.reservations().len(), 61);
}

#[test]
fn a_second_interface_of_a_container_is_another_holder() {
    let network = Network::new(json!([[{"subnet": "10.0.0.0/29"}]]));
    let add = |ifname: &str| addresses(&run(command(OURS, "ADD", "c1").env("CNI_IFNAME", ifname), &network.conf()));
    assert_eq!(add("eth0"), Ok(vec![ip("10.0.0.2")]));
    assert_eq!(add("eth1"), Ok(vec![ip("10.0.0.3")]));
    verdict(&run(command(OURS, "DEL", "c1").env("CNI_IFNAME", "eth0"), &network.conf())).unwrap();
    assert_eq!(network.reservations(), [(ip("10.0.0.3"), "c1\r\neth1".to_owned())].into());
}
