//! Killed at every single system call: no address is handed out twice, none is lost, none is half reserved.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // clippy knows #[test] functions only

mod common;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use common::{Network, OURS, call, ip, run, verdict};
use serde_json::{Value, json};

/// Five addresses: .2 to .6.
const SIZE: usize = 5;

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

/// Runs one call under strace, with these options.
fn traced(network: &Network, scenario: &Scenario, options: &[&str]) -> std::process::Output {
    let mut command = common::command("strace", scenario.verb, "victim");
    command.args(options).arg(OURS);
    run(&mut command, &(scenario.conf)(network))
}

fn prepared(scenario: &Scenario) -> Network {
    let network = Network::new(json!([[{"subnet": "10.0.0.0/29"}]]));
    (scenario.prepare)(&network);
    network
}

/// Every call from the reading of the configuration on, as (name, how many of that name came before).
fn kill_points(scenario: &Scenario) -> Vec<(String, usize)> {
    let network = prepared(scenario);
    let log = network.data_dir.join("log");
    let output = traced(&network, scenario, &["-o", log.to_str().unwrap()]);
    assert!(output.status.success(), "{}: {output:?}", scenario.name);
    let text = fs::read_to_string(log).unwrap();
    let names: Vec<&str> = text.lines().filter_map(|line| line.split_once('(')).map(|(name, _)| name).collect();
    let start = text.lines().position(|line| line.starts_with("read(0,")).unwrap();
    let points = (start..names.len()).filter(|at| names[*at] != "exit_group");
    points.map(|at| (names[at].to_owned(), names[..=at].iter().filter(|name| **name == names[at]).count())).collect()
}

/// What must hold after a kill, and after the DEL that the runtime sends then.
fn examine(network: &Network, what: &str) {
    let whole = |content: &str| content == "victim\r\neth0" || content == "other\r\neth0";
    for (ip, content) in network.reservations() {
        assert!(whole(&content) || content.is_empty() && ip == common::ip("10.0.0.3"), "{what}: {ip}: {content:?}");
    }
    let others = network.reservations().values().filter(|content| content.starts_with("other")).count();
    network.del(OURS, "victim").unwrap_or_else(|error| panic!("{what}: {error}"));
    let left: Vec<String> = network.reservations().into_values().filter(|content| !content.is_empty()).collect();
    assert_eq!(left.len(), others, "{what}: {left:?}");
    // Every address that nobody holds can be had, once.
    for n in others..SIZE {
        let free = network.reservations().into_iter().filter(|(_, content)| !content.is_empty()).count();
        assert_eq!(free, n, "{what}");
        network.add(OURS, &format!("next{n}")).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    assert!(network.add(OURS, "toomany").is_err(), "{what}");
    for n in others..SIZE {
        network.del(OURS, &format!("next{n}")).unwrap();
    }
    assert_eq!(network.reservations().len(), others, "{what}");
    assert!(network.add(OURS, "victim").is_ok(), "{what}");
}

#[test]
fn killed_anywhere_it_leaves_a_whole_state() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("skipped: no strace");
        return;
    }
    let mut kills = 0;
    for scenario in SCENARIOS {
        let points = kill_points(scenario);
        for (call, nth) in &points {
            let network = prepared(scenario);
            let inject = format!("inject={call}:signal=SIGKILL:when={nth}");
            let output = traced(&network, scenario, &["-o", "/dev/null", "-e", &inject]);
            assert_eq!(output.status.signal(), Some(9), "{}: {inject}: {output:?}", scenario.name);
            examine(&network, &format!("{} killed at {call} {nth}", scenario.name));
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
