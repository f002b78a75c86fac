//! A file system without unnamed files (`O_TMPFILE`), or without hard links as well: a reservation is whole or not there.
//!
//! strace(1) gives the answers of such a file system, for not every kernel can mount one.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // clippy knows #[test] functions only

mod common;

use std::fs;

use common::kill::{Point, examine, kill, points, refused, strace_is_here, trace};
use common::{Network, OURS};
use serde_json::{Value, json};

/// What the file system can't do, as options of strace for a run in which the `nth` openat(2) is the unnamed file's.
struct Lack {
    name: &'static str,
    options: fn(usize) -> Vec<String>,
}

const LACKS: &[Lack] = &[
    Lack { name: "no unnamed files", options: |nth| vec![unnamed(nth, "EOPNOTSUPP")] },
    Lack { name: "no unnamed files, in an old kernel", options: |nth| vec![unnamed(nth, "EISDIR")] },
    Lack {
        name: "no hard links either",
        options: |nth| vec![unnamed(nth, "EOPNOTSUPP"), "inject=linkat:error=EPERM".into()],
    },
    Lack { name: "no /proc", options: |_| vec!["inject=linkat:error=ENOENT:when=1".into()] },
];

fn unnamed(nth: usize, error: &str) -> String {
    format!("inject=openat:error={error}:when={nth}")
}

fn network() -> Network {
    let network = Network::new(json!([[{"subnet": "10.0.0.0/29"}]]));
    network.add(OURS, "other").unwrap();
    network
}

fn requesting(network: &Network, ip: &str) -> Value {
    let mut conf = network.conf_1_0();
    conf["runtimeConfig"] = json!({"ips": [ip]});
    conf
}

/// Which of its name the first call with `word` in it is, in an ADD that succeeds.
fn nth(conf: impl Fn(&Network) -> Value, options: &[&str], call: &str, word: &str) -> usize {
    let network = network();
    let calls = trace(&network, "ADD", &conf(&network), options);
    let named = calls.iter().filter(|line| line.split_once('(').is_some_and(|(name, _)| name == call));
    named.take_while(|line| !line.contains(word)).count() + 1
}

/// Which openat(2) asks for the unnamed file.
fn unnamed_open(conf: impl Fn(&Network) -> Value) -> usize {
    nth(conf, &[], "openat", "O_TMPFILE")
}

/// The points from the first refusal on, but for those that strace can't refuse and kill at once. A kill at openat(2)
/// leaves what a kill at the call before it leaves.
fn kill_points(options: &[&str], injected: &[&str]) -> Vec<Point> {
    let network = network();
    let calls = trace(&network, "ADD", &network.conf_1_0(), options);
    let start = calls.iter().position(|call| call.ends_with("(INJECTED)")).unwrap();
    points(&calls, start).into_iter().filter(|point| !injected.contains(&point.call.as_str())).collect()
}

#[test]
fn killed_anywhere_it_leaves_a_whole_state() {
    if !strace_is_here() {
        return;
    }
    let nth = unnamed_open(Network::conf_1_0);
    let mut kills = 0;
    for lack in LACKS {
        let injections = (lack.options)(nth);
        let options: Vec<&str> = injections.iter().flat_map(|inject| ["-e", inject]).collect();
        let injected: Vec<&str> = injections.iter().filter_map(|inject| inject.split(['=', ':']).nth(1)).collect();
        let points = kill_points(&options, &injected);
        for point in &points {
            let network = network();
            kill(&network, "ADD", &network.conf_1_0(), point, &options);
            let contents: Vec<String> = network.reservations().into_values().collect();
            assert!(!contents.iter().any(String::is_empty), "{}, killed at {}: {contents:?}", lack.name, point.call);
            examine(&network, &format!("{}, killed at {} {}", lack.name, point.call, point.nth));
        }
        println!("{}: {} kill points", lack.name, points.len());
        kills += points.len();
    }
    assert!(kills > 40, "{kills}");
}

#[test]
fn a_reservation_is_never_overwritten() {
    if !strace_is_here() {
        return;
    }
    let (plain, with_request) =
        (unnamed_open(Network::conf_1_0), unnamed_open(|network| requesting(network, "10.0.0.4")));
    for lack in LACKS {
        let network = network();
        // Left by a kill at an earlier call.
        network.write(".new", "half a reserv");
        // Or else the index would be stale, and the n-th openat(2) another.
        let index = || network.del(OURS, "none").unwrap();
        index();
        let injections = (lack.options)(with_request);
        let options: Vec<&str> = injections.iter().flat_map(|inject| ["-e", inject]).collect();
        // Nor does it help that the name was free when it looked.
        let look = nth(|network| requesting(network, "10.0.0.4"), &options, "newfstatat", "10.0.0.4");
        let blind = format!("inject=newfstatat:error=ENOENT:when={look}");
        let options: Vec<&str> = options.into_iter().chain(["-e", &blind]).collect();
        let error = refused(&network, "ADD", &requesting(&network, "10.0.0.2"), &options);
        assert!(error.contains("10.0.0.2 is held by container other (eth0)"), "{}: {error}", lack.name);
        assert_eq!(network.reservations().into_values().collect::<Vec<_>>(), ["other\r\neth0"], "{}", lack.name);
        index();
        let injections = (lack.options)(plain);
        let options: Vec<&str> = injections.iter().flat_map(|inject| ["-e", inject]).collect();
        trace(&network, "ADD", &network.conf_1_0(), &options);
        let contents: Vec<String> = network.reservations().into_values().collect();
        assert_eq!(contents, ["other\r\neth0", "victim\r\neth0"], "{}", lack.name);
        assert!(!fs::exists(network.dir().join(".new")).unwrap(), "{}", lack.name);
    }
}
