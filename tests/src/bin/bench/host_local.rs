//! ADD, CHECK and DEL of host-local at growing numbers of reservations: the median of the rounds in milliseconds, and how many
//! times as long the first directory's takes.
//!
//! Every time includes the start of a process; the row "none (VERSION)" is that alone. Everything happens in a directory of its own
//! below TMPDIR, so no namespace is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::contestant::Contestant;
use crate::statistics::{Sample, ms, ratio, row};
use crate::turns::order;
use crate::{Common, VERSION};

/// Rows of the table: how many addresses are reserved, and whether one of 4096 is left free between them.
const ROWS: [(&str, u32, bool); 6] = [
    ("0", 0, false),
    ("250", 250, false),
    ("1000", 1000, false),
    ("10000", 10_000, false),
    ("60000", 60_000, false),
    ("16 of a /16 free", 65_533, true),
];

pub(crate) fn run(common: &Common) {
    let bench = Bench { contestants: &common.contestants, rounds: common.rounds, state: state() };
    let heads: Vec<String> = common.contestants.iter().map(Contestant::label).collect();
    println!("medians of {} interleaved rounds; milliseconds (times faster)\n", common.rounds);
    row("reservations", &heads, &heads);
    let versions = bench.rounds(&["VERSION"]);
    print("none (VERSION)", &heads, &versions[0]);
    for (label, count, gaps) in ROWS {
        bench.prepare(count, gaps);
        for (verb, times) in VERBS.iter().zip(bench.rounds(&VERBS)) {
            print(&format!("{label:<18}{verb}"), &heads, &times);
        }
    }
}

const VERBS: [&str; 3] = ["ADD", "CHECK", "DEL"];

/// A fresh directory for all reservations.
fn state() -> PathBuf {
    let path = std::env::temp_dir().join(format!("cni-bench-{}", std::process::id()));
    fs::create_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    path
}

/// A row of the table, for the times of each contestant.
fn print(label: &str, heads: &[String], times: &[Vec<Duration>]) {
    let samples: Vec<Sample> = times.iter().map(|times| times.iter().copied().collect()).collect();
    let cell = |sample: &Sample| {
        let median = sample.median();
        format!("{:.2} ({:.1})", ms(median), ratio(samples[0].median(), median))
    };
    row(label, heads, &samples.iter().map(cell).collect::<Vec<_>>());
}

struct Bench<'a> {
    contestants: &'a [Contestant],
    rounds: u32,
    state: PathBuf,
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.state));
    }
}

impl Bench<'_> {
    /// The contestant's network, which is the name of its directory too.
    fn network(at: usize) -> String {
        format!("net{at}")
    }

    /// Reserves `count` addresses for each contestant and lets it make what it keeps beside them.
    fn prepare(&self, count: u32, gaps: bool) {
        fs::remove_dir_all(&self.state).and_then(|()| fs::create_dir(&self.state)).unwrap();
        for at in 0..self.contestants.len() {
            fill(&self.state.join(Self::network(at)), count, gaps);
        }
        // The first call after another program's change reads every file and makes the index; that is not what is measured.
        self.round(0, &VERBS, &mut |_, _, _| ());
    }

    /// All rounds of some verbs: for each verb and contestant its times.
    fn rounds(&self, verbs: &[&str]) -> Vec<Vec<Vec<Duration>>> {
        let mut times = vec![vec![Vec::new(); self.contestants.len()]; verbs.len()];
        for round in 1..=self.rounds as usize {
            self.round(round, verbs, &mut |verb, at, time| times[verb][at].push(time));
        }
        times
    }

    /// Each verb by all contestants in turn; CHECK and DEL get the result, as from runtimes.
    fn round(&self, round: usize, verbs: &[&str], heard: &mut dyn FnMut(usize, usize, Duration)) {
        let mut results = vec![Value::Null; self.contestants.len()];
        for (number, verb) in verbs.iter().enumerate() {
            for at in order(round, self.contestants.len()) {
                let mut conf = json!({
                    "cniVersion": VERSION, "name": Self::network(at), "type": "host-local", "ipam": {
                        "type": "host-local", "dataDir": self.state, "ranges": [[{"subnet": "10.64.0.0/16"}]]
                    }
                });
                if !results[at].is_null() {
                    conf["prevResult"] = results[at].clone();
                }
                let (time, stdout) = self.contestants[at].call(verb, &conf, &format!("round{round}"), "/nonexistent");
                if *verb == "ADD" {
                    results[at] = serde_json::from_slice(&stdout).expect("a result");
                }
                heard(number, at, time);
            }
        }
    }
}

/// Reserves addresses from 10.64.0.2 on; with `gaps` every 4096th of them stays free.
fn fill(dir: &Path, count: u32, gaps: bool) {
    fs::create_dir_all(dir).unwrap();
    for n in (2..count + 2).filter(|n| !gaps || n % 4096 != 7) {
        fs::write(dir.join(format!("10.64.{}.{}", n / 256, n % 256)), format!("{n:064x}\r\neth0")).unwrap();
    }
}
