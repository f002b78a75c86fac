//! A new TCP connection through a published port while the node publishes 10, 1000 and 3000, and without any translation.
//!
//! The measured port comes last. The others, thousands of ADDs, would take hours: with iptables their rules are copies of those
//! that the plugin made for a first container, with nftables they are a range of one container, which is an element a port.

use std::fmt::Write as _;
use std::net::SocketAddrV4;
use std::time::Duration;

use cni_tests::packets::Outside;
use cni_tests::{Sandbox, rules};
use serde_json::json;

use crate::contestant::Contestant;
use crate::node::{CONTAINER, Node};
use crate::statistics::{Sample, row, us};
use crate::turns::{Players, Turns};
use crate::{Common, VERSION, connect};

/// How many ports the node publishes.
const COUNTS: [usize; 3] = [10, 1000, 3000];
/// The first container's port; those of the others follow it.
const FIRST: usize = 20_000;
/// The measured port.
const LAST: u16 = 19_999;

/// What a contestant does when its turn comes.
#[derive(Debug, Clone)]
enum Command {
    /// Publishes ports until there are so many.
    Publish(usize),
    /// Connects so many times.
    Connect(usize),
    /// Publishes the measured port no more.
    Withdraw,
}

pub(crate) fn run(common: &Common) {
    let contestants = [&[Contestant::FLOOR], &common.contestants[..]].concat();
    let heads: Vec<String> = contestants.iter().map(Contestant::label).collect();
    let mut players = Players::start(&contestants, play);
    println!("a new connection, first decile / median of {} x 100; microseconds\n", common.rounds);
    row("published ports", &heads, &heads);
    for count in COUNTS {
        players.once(&Command::Publish(count));
        players.once(&Command::Connect(50));
        let times = players.rounds(common.rounds, &Command::Connect(100));
        let cells = times.iter().map(|rounds| {
            let sample: Sample = rounds.iter().flatten().copied().collect();
            format!("{:.1} / {:.1}", us(sample.decile()), us(sample.median()))
        });
        row(&count.to_string(), &heads, &cells.collect::<Vec<_>>());
        players.once(&Command::Withdraw);
    }
}

fn play(sandbox: &Sandbox, who: &Contestant, turns: &Turns<Command, Vec<Duration>>) {
    let node = Node::start(sandbox);
    connect::serve(&node.container);
    if who.dir.is_none() {
        let to = SocketAddrV4::new(CONTAINER.parse().unwrap(), 80);
        turns.serve(|command| match command {
            Command::Connect(count) => connect::times(&node.outside.ns, to, count),
            _ => Vec::new(),
        });
        return;
    }
    portmap(&node, who, "ADD", "c0", FIRST, 1);
    let to = SocketAddrV4::new(Outside::NODE_V4.parse().unwrap(), LAST);
    let mut published = 1;
    turns.serve(|command| match command {
        Command::Publish(count) => {
            publish(&node, who, published..count - 1);
            published = count - 1;
            portmap(&node, who, "ADD", "last", LAST.into(), 1);
            Vec::new()
        }
        Command::Connect(count) => connect::times(&node.outside.ns, to, count),
        Command::Withdraw => {
            portmap(&node, who, "DEL", "last", LAST.into(), 1);
            Vec::new()
        }
    });
}

fn portmap(node: &Node, who: &Contestant, verb: &str, id: &str, port: usize, range: usize) {
    let netns = node.container.path();
    let conf = json!({
        "cniVersion": VERSION, "name": "bench", "type": "portmap",
        "runtimeConfig": {"portMappings": [{"hostPort": port, "containerPort": 80, "protocol": "tcp", "range": range}]},
        "prevResult": {
            "cniVersion": VERSION, "interfaces": [{"name": "veth0"}, {"name": "eth0", "sandbox": netns}],
            "ips": [{"address": format!("{CONTAINER}/24"), "interface": 1}]
        }
    });
    who.call(verb, &who.with_backend(conf, "backend"), id, &netns);
}

/// Publishes the ports of `numbers` after the first one, all to the same container.
fn publish(node: &Node, who: &Contestant, numbers: std::ops::Range<usize>) {
    if who.uses_nftables() {
        let (from, count) = (numbers.start, numbers.len());
        return portmap(node, who, "ADD", &format!("c{from}"), FIRST + from, count);
    }
    let saved = rules::saved(&node.ns, "iptables-save", "nat");
    let of_first = |line: &&str| {
        line.starts_with("-A CNI-DN-") || [" 20000 ", ":20000 ", "dports 20000"].iter().any(|part| line.contains(part))
    };
    let first: Vec<&str> = saved.lines().filter(of_first).collect();
    let jump = first.iter().find(|line| line.starts_with("-A CNI-HOSTPORT-DNAT") && line.contains("dports 20000"));
    let chain = jump.and_then(|line| line.split(' ').next_back()).expect("a rule that leads to the container's chain");
    let mut copies = "*nat\n".to_owned();
    for number in numbers {
        let name = format!("CNI-DN-{number:021x}");
        writeln!(copies, ":{name} - [0:0]").unwrap();
        for rule in first.iter().filter(|rule| rule.contains(chain)) {
            let rule = rule.replace(chain, &name).replace("20000", &(FIRST + number).to_string());
            let rule = rule.replace(r#"id: \"c0\""#, &format!(r#"id: \"c{number}\""#));
            writeln!(copies, "{}", rule.replace("id: c0,", &format!("id: c{number},"))).unwrap();
        }
    }
    node.feed(&["iptables-restore", "--noflush"], &(copies + "COMMIT\n"));
}
