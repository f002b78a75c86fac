//! ADD and DEL of a chain: bridge with host-local and masquerade, and portmap with one port. What is timed are the plugin
//! processes, from being started to having ended.

use std::time::Duration;

use cni_tests::Sandbox;
use serde_json::{Value, json};

use crate::contestant::Contestant;
use crate::floor::Floor;
use crate::statistics::{Sample, ms, ratio};
use crate::turns::{Players, Turns};
use crate::{Common, VERSION};

/// The times of ADD, of DEL, and of starting the three executables to ask for their versions.
type Round = (Duration, Duration, Duration);

pub(crate) fn run(common: &Common, population: usize, dual_stack: bool) {
    // Last, for the first one is what the others are compared with.
    let contestants = &[&common.contestants[..], &[Contestant::FLOOR]].concat();
    let mut players = Players::start(contestants, move |sandbox, who, turns| {
        play(sandbox, who, (population, dual_stack), turns);
    });
    // The first round fills caches and installs what all attachments share.
    players.once(&());
    let times = players.rounds(common.rounds, &());
    let stack = if dual_stack { "dual stack" } else { "IPv4" };
    println!("chain bridge(host-local, masquerade) + portmap(1 port) at {VERSION}, {stack},");
    println!("{population} containers present, {} interleaved rounds; milliseconds\n", common.rounds);
    report(contestants, &times);
}

/// The two plugins' configurations.
pub(crate) fn chain(who: &Contestant, dual_stack: bool) -> [Value; 2] {
    let mut ranges = json!([[{"subnet": "10.88.0.0/16"}]]);
    if dual_stack {
        ranges.as_array_mut().unwrap().push(json!([{"subnet": "fd00:88::/64"}]));
    }
    let bridge = json!({
        "cniVersion": VERSION, "name": "bench", "type": "bridge", "bridge": "cni0", "isDefaultGateway": true,
        "ipMasq": true, "ipam": {"type": "host-local", "ranges": ranges}
    });
    let portmap = json!({"cniVersion": VERSION, "name": "bench", "type": "portmap"});
    [who.with_backend(bridge, "ipMasqBackend"), who.with_backend(portmap, "backend")]
}

fn play(sandbox: &Sandbox, who: &Contestant, (population, dual_stack): (usize, bool), turns: &Turns<(), Round>) {
    if who.dir.is_none() {
        let floor = Floor::start(sandbox, &sandbox.container("guest").path());
        return turns.serve(|()| {
            let (added, removed) = floor.round();
            (added, removed, Duration::ZERO)
        });
    }
    let chain = chain(who, dual_stack);
    // 127.0.0.1 as a published address needs a way out; so does masquerade.
    let _outside = sandbox.outside();
    for n in 0..population {
        let id = format!("resident{n}");
        let netns = sandbox.container(&id).path();
        add(who, &chain, &id, &netns, 20_000 + n);
    }
    let netns = sandbox.container("guest").path();
    let mut number = 0;
    turns.serve(|()| {
        let id = format!("guest{number}");
        number += 1;
        let (added, result) = add(who, &chain, &id, &netns, 10_000);
        let removed = del(who, &chain, &id, &netns, 10_000, &result);
        (added, removed, starts(who, &netns))
    });
}

fn with(conf: &Value, port: usize, previous: Option<&Value>) -> Value {
    let mut conf = conf.clone();
    if conf["type"] == "portmap" {
        let mapping = json!([{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]);
        conf["runtimeConfig"] = json!({"portMappings": mapping});
    }
    if let Some(previous) = previous {
        conf["prevResult"] = previous.clone();
    }
    conf
}

pub(crate) fn add(who: &Contestant, chain: &[Value; 2], id: &str, netns: &str, port: usize) -> (Duration, Value) {
    let mut total = Duration::ZERO;
    let mut previous = None;
    for conf in chain {
        let (time, stdout) = who.call("ADD", &with(conf, port, previous.as_ref()), id, netns);
        total += time;
        previous = Some(serde_json::from_slice(&stdout).unwrap_or_else(|e| panic!("{}: {e}", who.label())));
    }
    (total, previous.unwrap_or_default())
}

pub(crate) fn del(
    who: &Contestant,
    chain: &[Value; 2],
    id: &str,
    netns: &str,
    port: usize,
    result: &Value,
) -> Duration {
    chain.iter().rev().map(|conf| who.call("DEL", &with(conf, port, Some(result)), id, netns).0).sum()
}

/// Starting executables, and no more.
fn starts(who: &Contestant, netns: &str) -> Duration {
    let version = |plugin: &str| who.call("VERSION", &json!({"cniVersion": VERSION, "type": plugin}), "none", netns).0;
    ["bridge", "host-local", "portmap"].into_iter().map(version).sum()
}

/// The last one is the floor.
fn report(contestants: &[Contestant], times: &[Vec<Round>]) {
    let sample = |rounds: &Vec<Round>, of: fn(&Round) -> Duration| rounds.iter().map(of).collect::<Sample>();
    let samples: Vec<[Sample; 3]> = times
        .iter()
        .map(|rounds| [sample(rounds, |r| r.0), sample(rounds, |r| r.1), sample(rounds, |r| r.2)])
        .collect();
    let (Some(first), Some(floor)) = (samples.first(), samples.last()) else { return };
    let pair = |numbers: [f64; 2]| format!("{:.1} / {:.1}", numbers[0], numbers[1]);
    let heads = ["ADD median (min)", "DEL median (min)", "3 starts", "times faster", "times the floor"];
    println!("{:<44}{:>18}{:>18}{:>10}{:>16}{:>17}", "", heads[0], heads[1], heads[2], heads[3], heads[4]);
    for (contestant, sample) in contestants.iter().zip(&samples) {
        let text = |sample: &Sample| format!("{:.1} ({:.1})", ms(sample.median()), ms(sample.least()));
        let faster = pair([0, 1].map(|verb| ratio(first[verb].median(), sample[verb].median())));
        let above = pair([0, 1].map(|verb| ratio(sample[verb].median(), floor[verb].median())));
        let (add, del, starts) = (text(&sample[0]), text(&sample[1]), ms(sample[2].median()));
        println!("{:<44}{add:>18}{del:>18}{starts:>10.1}{faster:>16}{above:>17}", contestant.label());
    }
}
