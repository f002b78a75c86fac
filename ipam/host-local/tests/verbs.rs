//! The verbs as a runtime sees them: results, state on disk, and the texts of refusals.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // clippy knows #[test] functions only

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::{Network, OURS, addresses, call, command, error, ip, run, verdict};
use serde_json::{Value, json};

fn network() -> Network {
    Network::new(json!([[{"subnet": "10.0.0.0/29"}]]))
}

fn names(network: &Network) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(network.dir()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_address_of_every_set_with_routes_and_dns() {
    let network =
        Network::new(json!([[{"subnet": "10.0.0.0/24", "gateway": "10.0.0.254"}], [{"subnet": "fd00:9:0::/64"}]]));
    let resolv_conf = network.data_dir.join("resolv.conf");
    fs::write(
        &resolv_conf,
        "# comment\nnameserver 192.0.2.1\nsearch a.example b.example\noptions ndots:5\ndomain x.example\n",
    )
    .unwrap();
    let mut conf = network.conf();
    conf["ipam"]["resolvConf"] = json!(resolv_conf);
    conf["ipam"]["routes"] =
        json!([{"dst": "0.0.0.0/0", "mtu": 1400, "advmss": 1360, "priority": 7, "table": 0, "scope": 253}]);
    let output = call(OURS, "ADD", "c1", &conf);
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = json!({
        "cniVersion": "1.1.0",
        "ips": [
            {"address": "10.0.0.1/24", "gateway": "10.0.0.254"},
            {"address": "fd00:9::2/64", "gateway": "fd00:9::1"},
        ],
        "routes": [{"dst": "0.0.0.0/0", "mtu": 1400, "advmss": 1360, "priority": 7, "table": 0, "scope": 253}],
        "dns": {"nameservers": ["192.0.2.1"], "domain": "x.example", "search": ["a.example", "b.example"], "options": ["ndots:5"]},
    });
    assert_eq!(result, expected);
    assert_eq!(names(&network), ["10.0.0.1", "fd00:9::2", "last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
    let file = network.dir().join("fd00:9::2");
    assert_eq!(fs::read(&file).unwrap(), b"c1\r\neth0");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read(network.dir().join("last_reserved_ip.1")).unwrap(), b"fd00:9::2");
}

#[test]
fn requested_addresses_of_all_three_channels() {
    let network =
        Network::new(json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.1.0/24"}], [{"subnet": "fd00::/64"}]]));
    let mut conf = network.conf();
    conf["args"] = json!({"cni": {"ips": ["10.0.1.9/16"]}});
    conf["runtimeConfig"] = json!({"ips": ["fd00::9/64", "10.0.0.9"]});
    let output = run(command(OURS, "ADD", "c1").env("CNI_ARGS", "IgnoreUnknown=1;K8S=x;IP=10.0.0.9"), &conf);
    assert_eq!(addresses(&output), Ok(vec![ip("10.0.0.9"), ip("10.0.1.9"), ip("fd00::9")]));
    let refusal = |requested: &str| {
        verdict(&run(command(OURS, "ADD", "c2").env("CNI_ARGS", format!("IP={requested}")), &network.conf()))
            .unwrap_err()
    };
    assert_eq!(
        refusal("10.0.0.9"),
        "failed to allocate for range 0: requested IP address 10.0.0.9 is not available in range set \
         10.0.0.1-10.0.0.254: 10.0.0.9 is held by container c1 (eth0)"
    );
    assert_eq!(refusal("10.0.1.1"), "failed to allocate for range 1: requested ip 10.0.1.1 is subnet's gateway");
    assert_eq!(
        refusal("10.9.0.1"),
        "failed to allocate all requested IPs: 10.9.0.1: out of range; the range sets are \
         10.0.0.1-10.0.0.254 10.0.1.1-10.0.1.254 fd00::1-fd00::ffff:ffff:ffff:ffff"
    );
    // What an earlier set had given has been taken back.
    assert_eq!(network.reservations().len(), 3);
}

#[test]
fn a_repeated_add_is_refused_and_changes_nothing() {
    let network = network();
    network.add(OURS, "c1").unwrap();
    for args in ["", "IP=10.0.0.5", "IP=10.0.0.2"] {
        let refusal = verdict(&run(command(OURS, "ADD", "c1").env("CNI_ARGS", args), &network.conf())).unwrap_err();
        assert!(
            refusal.starts_with("10.0.0.2 has been allocated to c1, duplicate allocation is not allowed"),
            "{refusal}"
        );
    }
    assert_eq!(network.reservations(), [(ip("10.0.0.2"), "c1\r\neth0".to_owned())].into());
}

#[test]
fn a_failing_set_releases_only_what_this_call_took() {
    let network = network();
    // The same attachment holds an address of another range already, and the second set is full.
    network.write("10.7.0.2", "c1\r\neth0");
    let mut conf = network.conf();
    conf["ipam"]["ranges"] = json!([[{"subnet": "10.0.0.0/29"}], [{"subnet": "10.1.0.0/30"}]]);
    network.write("10.1.0.2", "c0\r\neth0");
    let refusal = verdict(&call(OURS, "ADD", "c1", &conf)).unwrap_err();
    assert!(
        refusal
            .starts_with("failed to allocate for range 1: no IP addresses available in range set: 10.1.0.1-10.1.0.2"),
        "{refusal}"
    );
    assert_eq!(network.reservations().into_keys().collect::<Vec<_>>(), [ip("10.1.0.2"), ip("10.7.0.2")]);
}

#[test]
fn an_add_whose_result_cannot_be_delivered_is_rolled_back() {
    let network = network();
    let mut command = command(OURS, "ADD", "c1");
    command.stdout(fs::File::options().write(true).open("/dev/full").unwrap());
    assert!(!run(&mut command, &network.conf()).status.success());
    assert!(network.reservations().is_empty());
}

#[test]
fn del_needs_neither_ranges_nor_a_reservation() {
    let network = network();
    for conf in [
        network.conf(),
        json!({"cniVersion": "1.1.0", "name": "net", "ipam": {"dataDir": network.data_dir, "ranges": 7}}),
    ] {
        verdict(&call(OURS, "DEL", "c1", &conf)).unwrap();
        assert!(!network.dir().exists(), "DEL makes nothing");
        network.add(OURS, "c1").unwrap();
        verdict(&call(OURS, "DEL", "c1", &conf)).unwrap();
        assert_eq!(names(&network), ["last_reserved_ip.0", "lock"]);
        fs::remove_dir_all(network.dir()).unwrap();
    }
}

#[test]
fn check_compares_the_previous_result() {
    let network = network();
    let check = |id: &str, address: &str| {
        let mut conf = network.conf();
        conf["prevResult"] = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}],
                                    "ips": [{"address": address, "interface": 0}]});
        verdict(&call(OURS, "CHECK", id, &conf))
    };
    assert!(
        check("c1", "10.0.0.2/29").unwrap_err().starts_with("host-local: Failed to find address added by container c1")
    );
    network.add(OURS, "c1").unwrap();
    network.add(OURS, "c2").unwrap();
    check("c1", "10.0.0.2/29").unwrap();
    // Another plugin's address is none of our business.
    check("c1", "192.0.2.1/24").unwrap();
    let refusal = check("c1", "10.0.0.3/29").unwrap_err();
    assert!(refusal.contains("10.0.0.3: expected reserved for container c1 (eth0)"), "{refusal}");
    assert!(refusal.contains("found held by container c2 (eth0)"), "{refusal}");
    fs::remove_file(network.dir().join("10.0.0.2")).unwrap();
    assert!(check("c1", "10.0.0.2/29").unwrap_err().contains("found no reservation"));
}

#[test]
fn gc_releases_what_is_not_valid_and_nothing_else() {
    let network = network();
    for id in ["c1", "c2", "c3"] {
        network.add(OURS, id).unwrap();
    }
    network.write("10.0.0.5", "old");
    network.write("10.0.0.6", "");
    network.write("192.0.2.7", "kept for the printer");
    fs::create_dir(network.data_dir.join("net2")).unwrap();
    fs::write(network.data_dir.join("net2/10.0.0.2"), "c1\r\neth0").unwrap();
    let before = names(&network);
    let mut conf = network.conf();
    verdict(&call(OURS, "GC", "", &conf)).unwrap();
    assert_eq!(names(&network), before, "no list, no release");
    conf["cni.dev/valid-attachments"] =
        json!([{"containerID": "c2", "ifname": "eth0"}, {"containerID": "c3", "ifname": "eth1"}]);
    verdict(&call(OURS, "GC", "", &conf)).unwrap();
    assert_eq!(names(&network), ["10.0.0.3", "192.0.2.7", "last_reserved_ip.0", "lock"]);
    assert!(network.data_dir.join("net2/10.0.0.2").exists());
    conf["cni.dev/valid-attachments"] = json!([]);
    verdict(&call(OURS, "GC", "", &conf)).unwrap();
    assert_eq!(names(&network), ["192.0.2.7", "last_reserved_ip.0", "lock"]);
}

#[test]
fn del_and_gc_find_the_state_beside_wrong_keys() {
    let network = network();
    let mut wrong = network.conf();
    wrong["ipam"]["ranges"] = json!([[{"subnet": 5}]]);
    wrong["cni.dev/valid-attachments"] = json!([]);
    network.add(OURS, "c1").unwrap();
    verdict(&call(OURS, "DEL", "c1", &wrong)).unwrap();
    assert!(network.reservations().is_empty());
    network.add(OURS, "c1").unwrap();
    let refusal = verdict(&call(OURS, "GC", "", &wrong)).unwrap_err();
    assert!(refusal.contains("ipam.ranges[0][0].subnet"), "{refusal}");
    assert!(network.reservations().is_empty(), "collected all the same");
    // A directory that can't be read is no other directory.
    network.add(OURS, "c1").unwrap();
    wrong["ipam"]["dataDir"] = json!(7);
    for verb in ["DEL", "GC"] {
        let refusal = verdict(&call(OURS, verb, "c1", &wrong)).unwrap_err();
        assert!(refusal.contains("ipam.dataDir"), "{refusal}");
    }
    assert_eq!(network.reservations().len(), 1);
}

#[test]
fn status_fails_when_no_address_is_left() {
    let network = network();
    verdict(&call(OURS, "STATUS", "", &network.conf())).unwrap();
    assert!(!network.dir().exists() && fs::read_dir(&network.data_dir).unwrap().count() == 0, "STATUS makes nothing");
    for n in 2..7 {
        verdict(&call(OURS, "STATUS", "", &network.conf())).unwrap();
        network.add(OURS, &format!("c{n}")).unwrap();
    }
    let refused = error(&call(OURS, "STATUS", "", &network.conf()));
    assert_eq!(refused["code"], 50);
    assert_eq!(refused["msg"], "no free address in range set 0 (10.0.0.1-10.0.0.6): 5 of 5 are reserved");
    network.del(OURS, "c4").unwrap();
    verdict(&call(OURS, "STATUS", "", &network.conf())).unwrap();
}

#[test]
fn the_network_name_cannot_leave_the_data_directory() {
    let network = network();
    for name in ["../net", "/etc", ".", "..", ".host-local", "a/b"] {
        let mut conf = network.conf();
        conf["name"] = json!(name);
        for verb in ["ADD", "DEL"] {
            assert_eq!(error(&call(OURS, verb, "c1", &conf))["code"], 7, "{name}");
        }
    }
    assert_eq!(fs::read_dir(&network.data_dir).unwrap().count(), 0);
}

#[test]
fn huge_ranges_are_used_and_exhausted_as_small_ones() {
    for (subnet, second) in [("10.0.0.0/8", "10.0.0.3"), ("fd00::/64", "fd00::3"), ("fd00::/8", "fd00::3")] {
        let network = Network::new(json!([[{"subnet": subnet}]]));
        network.add(OURS, "c1").unwrap();
        assert_eq!(network.add(OURS, "c2"), Ok(vec![ip(second)]));
    }
}
