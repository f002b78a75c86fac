//! Killed at every single system call: no address is handed out twice, none is lost, none is half reserved.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // clippy knows #[test] functions only

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::kill::{Point, examine, kill, points, strace_is_here, trace};
use common::{Network, OURS, call, ip, verdict};
use serde_json::{Value, json};

struct Scenario {
    name: &'static str,
    prepare: fn(&Network),
    verb: &'static str,
    conf: fn(&Network) -> Value,
}

fn plain(network: &Network) -> Value {
    network.conf()
}

fn with_gc_list(network: &Network) -> Value {
    let mut conf = network.conf();
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "other", "ifname": "eth0"}]);
    conf
}

fn requesting(network: &Network) -> Value {
    let mut conf = network.conf();
    conf["runtimeConfig"] = json!({"ips": ["10.0.0.4"]});
    conf
}

fn other(network: &Network) {
    network.add(OURS, "other").unwrap();
}

fn both(network: &Network) {
    other(network);
    network.add(OURS, "victim").unwrap();
}

const SCENARIOS: &[Scenario] = &[
    Scenario { name: "first ADD", prepare: |_| {}, verb: "ADD", conf: plain },
    Scenario { name: "ADD", prepare: other, verb: "ADD", conf: plain },
    Scenario { name: "ADD of an address", prepare: other, verb: "ADD", conf: requesting },
    Scenario {
        name: "ADD with a stale index over an empty file",
        prepare: |network| {
            other(network);
            network.write("10.0.0.3", "");
        },
        verb: "ADD",
        conf: plain,
    },
    Scenario { name: "DEL", prepare: both, verb: "DEL", conf: plain },
    Scenario { name: "GC", prepare: both, verb: "GC", conf: with_gc_list },
    Scenario { name: "CHECK", prepare: both, verb: "CHECK", conf: plain },
];

fn prepared(scenario: &Scenario) -> Network {
    let network = Network::new(json!([[{"subnet": "10.0.0.0/29"}]]));
    (scenario.prepare)(&network);
    network
}

/// Every call from the reading of the configuration on.
fn kill_points(scenario: &Scenario) -> Vec<Point> {
    let network = prepared(scenario);
    let calls = trace(&network, scenario.verb, &(scenario.conf)(&network), &[]);
    let start = calls.iter().position(|call| call.starts_with("read(0,")).unwrap();
    points(&calls, start)
}

#[test]
fn killed_anywhere_it_leaves_a_whole_state() {
    if !strace_is_here() {
        return;
    }
    let mut kills = 0;
    for scenario in SCENARIOS {
        let points = kill_points(scenario);
        for point in &points {
            let network = prepared(scenario);
            kill(&network, scenario.verb, &(scenario.conf)(&network), point, &[]);
            examine(&network, &format!("{} killed at {} {}", scenario.name, point.call, point.nth));
        }
        println!("{}: {} kill points", scenario.name, points.len());
        kills += points.len();
    }
    println!("{kills} kill points");
    assert!(kills > 100);
}

/// Runs the script as root of a mount namespace of its own, with a tiny tmpfs at `$1`.
fn on_tiny_disk(options: &str, test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: not root");
        return false;
    }
    let mount = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t tmpfs -o {options} tiny \"$1\" && HOST_LOCAL_TINY=\"$1\" exec \"$2\" --exact {test} --nocapture"
    );
    let inner = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"])
        .arg(mount.path())
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    // Not passed on when all is well: a reader of the totals would count the test twice.
    assert!(inner.status.success(), "{}", String::from_utf8_lossy(&inner.stdout));
    true
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let Ok(dir) = std::env::var("HOST_LOCAL_TINY") else {
        on_tiny_disk("size=512k", "a_full_disk_leaves_nothing_behind");
        on_tiny_disk("nr_inodes=12", "a_full_disk_leaves_nothing_behind");
        return;
    };
    let network = Network::in_dir(Path::new(&dir), json!([[{"subnet": "10.0.0.0/24"}]]));
    let before = network.add(OURS, "before").unwrap();
    let filler: Vec<_> = (0..12).map(|n| fs::write(format!("{dir}/filler{n}"), vec![1; 1 << 20])).collect();
    assert!(filler.iter().any(Result::is_err), "the disk is not full");
    let mut failed = 0;
    for n in 0..20 {
        let held = network.reservations();
        match network.add(OURS, &format!("c{n}")) {
            Ok(ips) => assert_eq!(network.reservations()[&ips[0]], format!("c{n}\r\neth0")),
            Err(error) => {
                assert!(error.contains("No space left"), "{error}");
                assert_eq!(network.reservations(), held);
                failed += 1;
                let status = common::error(&call(OURS, "STATUS", "", &network.conf()));
                assert_eq!(status["code"], 50);
            }
        }
    }
    assert!(failed > 0, "no ADD met the full disk");
    // Releasing needs no room.
    network.del(OURS, "before").unwrap();
    assert!(!network.reservations().contains_key(&before[0]));
    for n in 0..12 {
        let _ = fs::remove_file(format!("{dir}/filler{n}"));
    }
    let held = network.reservations().len();
    network.add(OURS, "after").unwrap();
    assert_eq!(network.reservations().len(), held + 1);
}

#[test]
fn a_read_only_disk_is_named() {
    let Ok(dir) = std::env::var("HOST_LOCAL_TINY") else {
        on_tiny_disk("size=1m", "a_read_only_disk_is_named");
        return;
    };
    let network = Network::in_dir(Path::new(&dir), json!([[{"subnet": "10.0.0.0/24"}]]));
    network.add(OURS, "c1").unwrap();
    assert!(Command::new("mount").args(["-o", "remount,ro", &dir]).status().unwrap().success());
    let error = network.add(OURS, "c2").unwrap_err();
    assert!(error.contains("Read-only file system") && error.contains("/net/10.0.0.3"), "{error}");
    assert_eq!(common::error(&call(OURS, "STATUS", "", &network.conf()))["code"], 50);
    verdict(&call(OURS, "CHECK", "c1", &network.conf())).unwrap();
    assert!(network.del(OURS, "c1").unwrap_err().contains("Read-only file system"));
    assert_eq!(network.reservations().into_keys().collect::<Vec<_>>(), [ip("10.0.0.2")]);
}
