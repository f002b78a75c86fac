//! Simulates a thousand nodes for cni-noded: `cargo run -p cni-tests --bin nodes -- DIR [NODES [SECONDS]]`. DIR has the executable.
//!
//! For each source and backend: how long until all entries are there, how long after that a change needs, and what ten changes a second cost
//! in processor time and memory. Needs root; everything happens in namespaces that end with it.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring program")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cni_tests::kubernetes::Api;
use cni_tests::{Netns, Sandbox};
use serde_json::{Value, json};

const NODES: &str = "/run/nodes";
const CHANGES_A_SECOND: u32 = 10;
/// A node's description in a real cluster has its images and conditions, which weigh most.
const IMAGES: usize = 50;

fn main() {
    let mut words = std::env::args().skip(1);
    let dir = words.next().unwrap_or_else(|| "bin".to_owned());
    let mut number = |default: usize| words.next().and_then(|word| word.parse().ok()).unwrap_or(default);
    let (count, seconds) = (number(1000), number(20));
    println!("{count} nodes, {CHANGES_A_SECOND} changes a second for {seconds} s");
    println!(
        "| source | backend | entries | all there | a change, median | longest | processor | memory |\n|---|---|---|---|---|---|---|---|"
    );
    for source in ["file", "kubernetes"] {
        for (name, backend) in [
            ("host-gw", json!({"host-gw": {}})),
            ("vxlan", json!({"vxlan": {}})),
            ("bridge", json!({"bridge": {"peers": "/run/peers"}})),
        ] {
            let dir = Path::new(&dir).canonicalize().unwrap();
            let ended = Sandbox::run(&dir, |sandbox| {
                println!("| {source} | {name} {}", run(sandbox, source, &backend, count, seconds));
            });
            if let Err(stop) = ended {
                println!("| {source} | {name} | failed: {stop:?} |");
            }
        }
    }
}

/// The node under test, with the nodes of its source.
struct Simulation {
    node: Netns,
    api: Option<Api>,
    /// By number: which of the node's two ranges it has.
    ranges: Vec<usize>,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn address(n: usize) -> String {
    format!("10.0.{}.{}", n / 250, n % 250 + 1)
}

fn range(n: usize, which: usize) -> String {
    format!("10.{}.{}.0/24", 64 + which * 16 + n / 250, n % 250)
}

impl Simulation {
    fn publish(&self, n: usize) {
        let Some(api) = &self.api else { return };
        let images: Vec<Value> = (0..IMAGES).map(|i| json!({"names": [format!("registry.example/team/image-{i}@sha256:{:064}", i)], "sizeBytes": 123_456_789})).collect();
        let cidr = range(n, self.ranges[n]);
        api.publish(
            &format!("n{n}"),
            json!({"spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
            "status": {"addresses": [{"type": "InternalIP", "address": address(n)}], "images": images}}),
        );
    }

    fn write(&self) {
        if self.api.is_some() {
            return;
        }
        let line = |n: usize| format!("n{n} {} {}\n", address(n), range(n, self.ranges[n]));
        fs::write("/run/.nodes", (0..self.ranges.len()).map(line).collect::<String>()).unwrap();
        fs::rename("/run/.nodes", NODES).unwrap();
    }

    /// A node gets its other range; how long until that is seen.
    fn change(&mut self, n: usize) -> Duration {
        self.ranges[n] = 1 - self.ranges[n];
        let wanted = range(n, self.ranges[n]);
        let began = Instant::now();
        self.publish(n);
        self.write();
        while !self.has(&wanted) {
            assert!(began.elapsed() < Duration::from_secs(30), "{wanted} is not there after 30 s");
            thread::sleep(Duration::from_millis(1));
        }
        began.elapsed()
    }

    fn has(&self, wanted: &str) -> bool {
        match fs::read_to_string("/run/peers") {
            Ok(peers) => peers.contains(&format!(" {wanted}\n")),
            Err(_) => !self.node.sh(&["ip", "route", "show", wanted]).is_empty(),
        }
    }
}

fn run(sb: &Sandbox, source: &str, backend: &Value, count: usize, seconds: usize) -> String {
    let node = sb.node();
    node.sh(&["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "wire"]);
    node.sh(&["ip", "link", "set", "wire", "up"]);
    node.sh(&["ip", "addr", "add", &format!("{}/16", address(0)), "dev", "eth0"]);
    node.sh(&["ip", "link", "set", "eth0", "up"]);
    let api = (source == "kubernetes").then(|| Api::serve(node.clone(), "127.0.0.1:6443"));
    let mut all = Simulation { node, api, ranges: vec![0; count] };
    (0..count).for_each(|n| all.publish(n));
    all.write();
    let source = if all.api.is_some() {
        json!({"kubernetes": {"server": "http://127.0.0.1:6443"}})
    } else {
        json!({"file": NODES})
    };
    fs::write("/run/noded.json", json!({"node": "n0", "source": source, "backend": backend}).to_string()).unwrap();
    let began = Instant::now();
    let child = Command::new(sb.dir().join("cni-noded"))
        .args(["--config", "/run/noded.json"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let running = Running(child);
    let mut entries;
    loop {
        entries = metric(&all.node, "cni_noded_entries");
        if entries as usize >= count - 1 && metric(&all.node, "cni_noded_problems") == 0.0 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "the entries are not there after 60 s");
        thread::sleep(Duration::from_millis(5));
    }
    let whole = began.elapsed();
    let pid = running.0.id();
    let before = ticks(pid);
    let began = Instant::now();
    let mut took = Vec::new();
    for step in 0..seconds * CHANGES_A_SECOND as usize {
        took.push(all.change(1 + step * 37 % (count - 1)));
        let next = began + Duration::from_secs(1) / CHANGES_A_SECOND * u32::try_from(step + 1).unwrap();
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    // Linux counts a hundredth of a second as a tick, on all that it runs on (`USER_HZ`).
    let share = (ticks(pid) - before) / began.elapsed().as_secs_f64();
    took.sort();
    format!(
        "| {entries} | {whole:.0?} | {:.1?} | {:.0?} | {share:.1} % | {} |",
        took[took.len() / 2],
        took[took.len() - 1],
        memory(pid)
    )
}

fn metric(node: &Netns, name: &str) -> f64 {
    let text = node.sh(&["sh", "-c", "printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' | nc -w 5 127.0.0.1 9469 || true"]);
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_default()
}

/// User and system time so far, in hundredths of a second.
fn ticks(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let words: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    [11, 12].iter().map(|n| words[*n].parse::<f64>().unwrap()).sum()
}

fn memory(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default().trim().to_owned()
}
