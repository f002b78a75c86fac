//! Times the ADD and DEL of a chain (bridge with host-local and masquerade, portmap with one port) for several
//! directories of plugins, interleaved, each on a node of its own. What is timed are the plugin processes, from being
//! started to having ended.
//!
//! Usage: `bench [--rounds N] [--population N] [--dual-stack] DIR[=BACKEND]...`, the first one being compared to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a measuring tool")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use cni_tests::{Sandbox, verdict};
use serde_json::{Value, json};

/// The newest version that all of the plugins that one may want to compare know.
const VERSION: &str = "1.0.0";

/// One row of the table: a directory with a backend.
#[derive(Debug, Clone)]
struct Contestant {
    dir: PathBuf,
    /// `None`: as the plugins choose.
    backend: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Setting {
    rounds: usize,
    population: usize,
    dual_stack: bool,
}

/// The times of one round.
type Round = (Duration, Duration);

fn main() {
    verdict::install_hook();
    let (setting, contestants) = arguments();
    // Every contestant waits on its own node until it is its turn.
    let mut players: Vec<(Sender<()>, Receiver<Round>)> = Vec::new();
    let mut threads = Vec::new();
    for contestant in contestants.clone() {
        let (turn, turns) = channel();
        let (result, results) = channel();
        threads.push(thread::spawn(move || {
            let dir = contestant.dir.clone();
            Sandbox::run(&dir, move |sandbox| play(sandbox, &contestant, setting, &turns, &result))
        }));
        players.push((turn, results));
    }
    let mut times = vec![Vec::new(); contestants.len()];
    'rounds: for round in 0..=setting.rounds {
        for offset in 0..players.len() {
            let at = (round + offset) % players.len();
            let (turn, results) = &players[at];
            let Some(time) = turn.send(()).ok().and_then(|()| results.recv().ok()) else { break 'rounds };
            // The first round fills caches and installs what all attachments share.
            if round > 0 {
                times[at].push(time);
            }
        }
    }
    drop(players);
    for ended in threads {
        if let Err(stop) = ended.join().expect("panics are caught") {
            println!("FAILED: {stop:?}");
            std::process::exit(1);
        }
    }
    report(setting, &contestants, &times);
}

fn arguments() -> (Setting, Vec<Contestant>) {
    let mut setting = Setting { rounds: 30, population: 0, dual_stack: false };
    let mut contestants = Vec::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number =
            || words.next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{word} needs a number"));
        match word.as_str() {
            "--rounds" => setting.rounds = number(),
            "--population" => setting.population = number(),
            "--dual-stack" => setting.dual_stack = true,
            _ => {
                let (dir, backend) = word.split_once('=').map_or((word.as_str(), None), |(d, b)| (d, Some(b)));
                contestants.push(Contestant {
                    dir: PathBuf::from(dir).canonicalize().expect(dir),
                    backend: backend.map(str::to_owned),
                });
            }
        }
    }
    assert!(!contestants.is_empty() && setting.rounds > 0, "usage: bench [--rounds N] ... DIR[=BACKEND]...");
    (setting, contestants)
}

/// The two plugins' configurations.
fn chain(contestant: &Contestant, dual_stack: bool) -> [Value; 2] {
    let mut ranges = json!([[{"subnet": "10.88.0.0/16"}]]);
    if dual_stack {
        ranges.as_array_mut().unwrap().push(json!([{"subnet": "fd00:88::/64"}]));
    }
    let mut bridge = json!({
        "cniVersion": VERSION, "name": "bench", "type": "bridge", "bridge": "cni0", "isDefaultGateway": true,
        "ipMasq": true, "ipam": {"type": "host-local", "ranges": ranges}
    });
    let mut portmap = json!({"cniVersion": VERSION, "name": "bench", "type": "portmap"});
    if let Some(backend) = &contestant.backend {
        bridge["ipMasqBackend"] = backend.as_str().into();
        portmap["backend"] = backend.as_str().into();
    }
    [bridge, portmap]
}

fn play(sandbox: &Sandbox, who: &Contestant, setting: Setting, turns: &Receiver<()>, results: &Sender<Round>) {
    let chain = chain(who, setting.dual_stack);
    // 127.0.0.1 as a published address needs a way out; so does masquerade.
    let _outside = sandbox.outside();
    for n in 0..setting.population {
        let id = format!("resident{n}");
        let netns = sandbox.container(&id).path();
        add(&who.dir, &chain, &id, &netns, 20_000 + n);
    }
    let netns = sandbox.container("guest").path();
    let mut number = 0;
    while turns.recv().is_ok() {
        let id = format!("guest{number}");
        number += 1;
        let (added, result) = add(&who.dir, &chain, &id, &netns, 10_000);
        let deleted = del(&who.dir, &chain, &id, &netns, 10_000, &result);
        if results.send((added, deleted)).is_err() {
            return;
        }
    }
}

fn with(conf: &Value, port: usize, previous: Option<&Value>) -> String {
    let mut conf = conf.clone();
    if conf["type"] == "portmap" {
        let mapping = json!([{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]);
        conf["runtimeConfig"] = json!({"portMappings": mapping});
    }
    if let Some(previous) = previous {
        conf["prevResult"] = previous.clone();
    }
    conf.to_string()
}

fn add(dir: &Path, chain: &[Value; 2], id: &str, netns: &str, port: usize) -> (Duration, Value) {
    let mut total = Duration::ZERO;
    let mut previous = None;
    for conf in chain {
        let (time, stdout) = call(dir, "ADD", conf, id, netns, &with(conf, port, previous.as_ref()));
        total += time;
        previous = Some(serde_json::from_slice(&stdout).unwrap_or_else(|e| panic!("{}: {e}", dir.display())));
    }
    (total, previous.unwrap_or_default())
}

fn del(dir: &Path, chain: &[Value; 2], id: &str, netns: &str, port: usize, result: &Value) -> Duration {
    chain.iter().rev().map(|conf| call(dir, "DEL", conf, id, netns, &with(conf, port, Some(result))).0).sum()
}

/// Starts one plugin, feeds it, and waits for its end.
fn call(dir: &Path, verb: &str, conf: &Value, id: &str, netns: &str, stdin: &str) -> (Duration, Vec<u8>) {
    let plugin = conf["type"].as_str().unwrap();
    let mut command = Command::new(dir.join(plugin));
    command.envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", id), ("CNI_NETNS", netns), ("CNI_IFNAME", "eth0")]);
    command.env("CNI_PATH", dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", dir.join(plugin).display()));
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let time = start.elapsed();
    let (said, complained) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{} {plugin} {verb}: {said} {complained}", dir.display());
    (time, out.stdout)
}

fn report(setting: Setting, contestants: &[Contestant], times: &[Vec<Round>]) {
    let stack = if setting.dual_stack { "dual stack" } else { "IPv4" };
    println!("chain bridge(host-local, masquerade) + portmap(1 port) at {VERSION}, {stack},");
    println!("{} containers present, {} interleaved rounds; milliseconds\n", setting.population, setting.rounds);
    println!("{:<44}{:>20}{:>20}{:>16}", "", "ADD median (min)", "DEL median (min)", "times faster");
    let figures: Vec<_> =
        times.iter().map(|rounds| (figure(rounds.iter().map(|r| r.0)), figure(rounds.iter().map(|r| r.1)))).collect();
    for (contestant, (add, del)) in contestants.iter().zip(&figures) {
        let backend = contestant.backend.as_deref().unwrap_or("default");
        let name = format!("{}, {backend}", contestant.dir.display());
        let text = |f: &(f64, f64)| format!("{:.1} ({:.1})", f.0, f.1);
        let ratio = format!("{:.1} / {:.1}", figures[0].0.0 / add.0, figures[0].1.0 / del.0);
        println!("{name:<44}{:>20}{:>20}{ratio:>16}", text(add), text(del));
    }
}

/// Median and minimum in milliseconds.
fn figure(times: impl Iterator<Item = Duration>) -> (f64, f64) {
    let mut sorted: Vec<f64> = times.map(|t| t.as_secs_f64() * 1000.0).collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
    (median, sorted[0])
}
