//! firewall on a node whose FORWARD policy is DROP and that lets through 10, 250 and 1000 other containers: ADD and DEL, and a new
//! TCP connection of the container that came last, and to a published port of it. The published port is measured with policy
//! ACCEPT, because under DROP the Go plugin accepts no connection from outside.
//!
//! The others' rules are copies of those that the plugin made for a first container, or elements of our sets: a thousand ADDs of
//! the Go plugin would take minutes.

use std::fmt::Write as _;
use std::net::SocketAddrV4;
use std::time::Duration;

use cni_tests::packets::Outside;
use cni_tests::{Sandbox, legacy, rules};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::contestant::Contestant;
use crate::node::{CONTAINER, Node};
use crate::statistics::{Sample, ms, row, us};
use crate::turns::{Players, Turns};
use crate::{Common, VERSION, connect};

/// How many other containers the node lets through.
const COUNTS: [usize; 3] = [10, 250, 1000];

/// What a contestant does when its turn comes.
#[derive(Debug, Clone)]
enum Command {
    /// Lets other containers through until there are so many.
    Populate(usize),
    /// ADD and DEL of the measured container.
    Call,
    /// ADD of the measured container.
    Add,
    /// DEL of it.
    Del,
    /// The node's FORWARD policy.
    Policy(&'static str),
    /// 100 connections of the measured container to the outside.
    Out,
    /// 100 connections from outside to its published port.
    In,
}

pub(crate) fn run(common: &Common, legacy: bool) {
    // Where the scheduler puts client and server makes more difference than what is measured.
    let mut one = CpuSet::new();
    one.set(1).and_then(|()| sched_setaffinity(Pid::from_raw(0), &one)).expect("the second processor");
    let contestants = [&[Contestant::FLOOR], &common.contestants[..]].concat();
    let heads: Vec<String> = contestants.iter().map(Contestant::label).collect();
    let mut players = Players::start(&contestants, move |sandbox, who, turns| play(sandbox, who, legacy, turns));
    println!("medians of {} rounds: ADD and DEL in milliseconds, a new connection in microseconds\n", common.rounds);
    row("containers", &heads, &heads);
    let print = |count: usize, what: &str, times: &[Vec<Vec<Duration>>], cell: fn(&Sample) -> String| {
        let cells = times.iter().map(|rounds| {
            let sample: Sample = rounds.iter().flatten().copied().collect();
            if sample.is_empty() { "-".to_owned() } else { cell(&sample) }
        });
        row(&format!("{count:<8}{what}"), &heads, &cells.collect::<Vec<_>>());
    };
    for count in COUNTS {
        players.once(&Command::Populate(count));
        let calls = players.rounds(common.rounds, &Command::Call);
        let nth = |n: usize| -> Vec<Vec<Vec<Duration>>> {
            let of = |round: &Vec<Duration>| round.get(n).copied().into_iter().collect();
            calls.iter().map(|rounds| rounds.iter().map(of).collect()).collect()
        };
        print(count, "ADD ms", &nth(0), |sample| format!("{:.1}", ms(sample.median())));
        print(count, "DEL ms", &nth(1), |sample| format!("{:.1}", ms(sample.median())));
        players.once(&Command::Add);
        let out = players.rounds(common.rounds, &Command::Out);
        print(count, "out us", &out, |sample| format!("{:.1}", us(sample.median())));
        players.once(&Command::Policy("ACCEPT"));
        let into = players.rounds(common.rounds, &Command::In);
        print(count, "in us", &into, |sample| format!("{:.1}", us(sample.median())));
        players.once(&Command::Policy("DROP"));
        players.once(&Command::Del);
    }
}

/// A contestant on its node.
struct Guarded<'a> {
    who: &'a Contestant,
    node: Node,
    /// The `PATH` of the plugin and the names of the tools.
    path: Option<String>,
    there: usize,
}

fn play(sandbox: &Sandbox, who: &Contestant, legacy: bool, turns: &Turns<Command, Vec<Duration>>) {
    let mut guarded = Guarded { who, node: Node::start(sandbox), path: legacy.then(legacy::path), there: 1 };
    connect::serve(&guarded.node.container);
    connect::serve(&guarded.node.outside.ns);
    let dnat = ["-t", "nat", "-A", "PREROUTING", "-i", "up0", "-p", "tcp", "--dport", "8080", "-j", "DNAT"];
    guarded.iptables(&[&dnat[..], &["--to-destination", &format!("{CONTAINER}:80")]].concat());
    if who.dir.is_some() {
        guarded.iptables(&["-P", "FORWARD", "DROP"]);
        guarded.firewall("ADD", "first", "10.77.0.1");
    }
    turns.serve(|command| guarded.turn(&command));
}

impl Guarded<'_> {
    fn turn(&mut self, command: &Command) -> Vec<Duration> {
        let to = |address: &str, port| SocketAddrV4::new(address.parse().unwrap(), port);
        match command {
            Command::Out => return connect::times(&self.node.container, to(Outside::V4, 80), 100),
            Command::In => return connect::times(&self.node.outside.ns, to(Outside::NODE_V4, 8080), 100),
            _ if self.who.dir.is_none() => {}
            Command::Populate(count) => self.populate(*count),
            Command::Call => return ["ADD", "DEL"].map(|verb| self.firewall(verb, "measured", "10.88.0.9")).to_vec(),
            Command::Add => drop(self.firewall("ADD", "measured", CONTAINER)),
            Command::Del => drop(self.firewall("DEL", "measured", CONTAINER)),
            Command::Policy(policy) => self.iptables(&["-P", "FORWARD", policy]),
        }
        Vec::new()
    }

    /// The name of a tool of the variant in use.
    fn tool(&self, part: &str) -> String {
        format!("iptables{}{part}", if self.path.is_some() { "-legacy" } else { "" })
    }

    fn iptables(&self, words: &[&str]) {
        self.node.feed(&[&[self.tool("").as_str()], words].concat(), "");
    }

    fn firewall(&self, verb: &str, id: &str, address: &str) -> Duration {
        let netns = self.node.container.path();
        let conf: Value = json!({
            "cniVersion": VERSION, "name": "bench", "type": "firewall", "prevResult": {
                "cniVersion": VERSION, "interfaces": [{"name": "veth0"}, {"name": "eth0", "sandbox": netns}],
                "ips": [{"address": format!("{address}/24"), "interface": 1}]
            }
        });
        let conf = self.who.with_backend(conf, "backend");
        self.who.call_with(verb, &conf, id, &netns, self.path.as_deref()).0
    }

    /// Further containers, with addresses in 10.77.0.0/16.
    fn populate(&mut self, count: usize) {
        let numbers = self.there..count;
        self.there = count;
        let address = |n: usize| format!("10.77.{}.{}", n / 250, n % 250 + 1);
        let mut lines = String::new();
        if self.who.uses_nftables() {
            for n in numbers {
                let element = format!("{} comment \"other {n}\"", address(n));
                writeln!(lines, "add element inet cni_firewall accept4 {{ {element} }}").unwrap();
            }
            return self.node.feed(&["nft", "-f", "-"], &lines);
        }
        let saved = rules::saved(&self.node.ns, &self.tool("-save"), "filter");
        let first: Vec<&str> = saved.lines().filter(|line| line.contains("10.77.0.1/32")).collect();
        lines.push_str("*filter\n");
        for (n, rule) in numbers.flat_map(|n| first.iter().map(move |rule| (n, rule))) {
            let rule = rule.replace("10.77.0.1/", &format!("{}/", address(n)));
            writeln!(lines, "{}", rule.replace("id: first", &format!("id: first{n}"))).unwrap();
        }
        self.node.feed(&[&self.tool("-restore"), "--noflush"], &(lines + "COMMIT\n"));
    }
}
