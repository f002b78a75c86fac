//! Kills host-local at a chosen system call, by strace(1), and looks at what it leaves.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use serde_json::Value;

use super::{Network, OURS, command, ip, run, verdict};

/// Usable addresses of the network that is looked at, a /29: .2 to .6.
const SIZE: usize = 5;

/// A system call of a run: its name, and which of that name it is, from 1 on.
pub(crate) struct Point {
    pub(crate) call: String,
    pub(crate) nth: usize,
}

/// True if strace is there; says so if not.
pub(crate) fn strace_is_here() -> bool {
    let found = Command::new("strace").arg("-V").output().is_ok();
    if !found {
        eprintln!("skipped: no strace");
    }
    found
}

/// Runs one call of `victim` under strace, with these options.
fn traced(network: &Network, verb: &str, conf: &Value, options: &[&str]) -> Output {
    let mut command = command("strace", verb, "victim");
    command.args(options).arg(OURS).current_dir(&network.data_dir);
    run(&mut command, conf)
}

/// The system calls of one run that succeeds, as strace writes them.
pub(crate) fn trace(network: &Network, verb: &str, conf: &Value, options: &[&str]) -> Vec<String> {
    let log = network.data_dir.join("log");
    let options: Vec<&str> = options.iter().copied().chain(["-o", log.to_str().unwrap()]).collect();
    let output = traced(network, verb, conf, &options);
    assert!(output.status.success(), "{output:?}");
    let calls =
        fs::read_to_string(&log).unwrap().lines().filter(|line| line.contains('(')).map(str::to_owned).collect();
    fs::remove_file(log).unwrap();
    calls
}

/// The error of one run that is refused.
pub(crate) fn refused(network: &Network, verb: &str, conf: &Value, options: &[&str]) -> String {
    let options: Vec<&str> = options.iter().copied().chain(["-o", "/dev/null"]).collect();
    verdict(&traced(network, verb, conf, &options)).unwrap_err()
}

/// The calls from `start` on as points to kill at.
pub(crate) fn points(calls: &[String], start: usize) -> Vec<Point> {
    let names: Vec<&str> = calls.iter().filter_map(|line| line.split_once('(')).map(|(name, _)| name).collect();
    let nth = |at: usize| names[..=at].iter().filter(|name| **name == names[at]).count();
    let all = (start..names.len()).filter(|at| names[*at] != "exit_group");
    all.map(|at| Point { call: names[at].to_owned(), nth: nth(at) }).collect()
}

/// Runs one call of `victim` that is killed when it comes to `point`.
pub(crate) fn kill(network: &Network, verb: &str, conf: &Value, point: &Point, options: &[&str]) {
    let inject = format!("inject={}:signal=SIGKILL:when={}", point.call, point.nth);
    let options: Vec<&str> = options.iter().copied().chain(["-o", "/dev/null", "-e", &inject]).collect();
    let output = traced(network, verb, conf, &options);
    assert_eq!(output.status.signal(), Some(9), "{verb}: {options:?}: {output:?}");
}

/// What must hold after a kill, and after the DEL that the runtime sends then. An empty 10.0.0.3 may have been there.
pub(crate) fn examine(network: &Network, what: &str) {
    let whole = |content: &str| content == "victim\r\neth0" || content == "other\r\neth0";
    for (address, content) in network.reservations() {
        let expected = whole(&content) || content.is_empty() && address == ip("10.0.0.3");
        assert!(expected, "{what}: {address}: {content:?}");
    }
    let others = network.reservations().values().filter(|content| content.starts_with("other")).count();
    network.del(OURS, "victim").unwrap_or_else(|error| panic!("{what}: {error}"));
    let left: Vec<String> = network.reservations().into_values().filter(|content| !content.is_empty()).collect();
    assert_eq!(left.len(), others, "{what}: {left:?}");
    // Every free address can be reserved, once.
    for n in others..SIZE {
        let held = network.reservations().into_iter().filter(|(_, content)| !content.is_empty()).count();
        assert_eq!(held, n, "{what}");
        network.add(OURS, &format!("next{n}")).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    assert!(network.add(OURS, "toomany").is_err(), "{what}");
    for n in others..SIZE {
        network.del(OURS, &format!("next{n}")).unwrap();
    }
    assert_eq!(network.reservations().len(), others, "{what}");
    assert!(network.add(OURS, "victim").is_ok(), "{what}");
}
