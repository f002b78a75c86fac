//! Many chains at once on one node: ADD and DEL a second, and how long one takes, by how many are called in parallel.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cni_tests::Sandbox;
use serde_json::Value;

use crate::Common;
use crate::attach::{add, chain, del};
use crate::contestant::Contestant;
use crate::statistics::{Sample, ms, row};
use crate::turns::{Players, Turns};

/// How many are called in parallel, one table row each.
const PARALLEL: [usize; 4] = [1, 4, 16, 32];
/// How many attachments a burst has.
const ATTACHMENTS: usize = 96;

/// What one verb took: all together, and each.
struct Burst {
    all: Duration,
    each: Sample,
}

pub(crate) fn run(common: &Common) {
    let contestants = &common.contestants;
    let mut players = Players::start(contestants, play);
    println!(
        "chain bridge(host-local, masquerade) + portmap(1 port), {ATTACHMENTS} attachments in each of {} bursts:",
        common.rounds
    );
    println!("a second, median burst; milliseconds for one: median, 99th percentile\n");
    let heads: Vec<String> = contestants.iter().map(Contestant::label).collect();
    // The first burst installs what all attachments share.
    players.once(&1);
    for parallel in PARALLEL {
        let bursts = players.rounds(common.rounds, &parallel);
        for (verb, of) in [("ADD", (|round| &round.0) as fn(&(Burst, Burst)) -> &Burst), ("DEL", |round| &round.1)] {
            let cells: Vec<String> =
                bursts.iter().map(|rounds| cell(&rounds.iter().map(of).collect::<Vec<_>>())).collect();
            row(&format!("{verb}, {parallel} in parallel"), &heads, &cells);
        }
    }
}

fn cell(bursts: &[&Burst]) -> String {
    let all: Sample = bursts.iter().map(|burst| burst.all).collect();
    let each: Sample = bursts.iter().flat_map(|burst| burst.each.all()).copied().collect();
    let rate = ATTACHMENTS as u128 * 1_000_000 / all.median().as_micros().max(1);
    format!("{rate}/s  {:.0}  {:.0}", ms(each.median()), ms(each.percentile(99)))
}

fn play(sandbox: &Sandbox, who: &Contestant, turns: &Turns<usize, (Burst, Burst)>) {
    let chain = chain(who, false);
    let _outside = sandbox.outside();
    let namespaces: Vec<String> = (0..ATTACHMENTS).map(|n| sandbox.container(&format!("c{n}")).path()).collect();
    turns.serve(|parallel| {
        let id = |n: usize| format!("guest{n}");
        let (all, added) = in_parallel(parallel, |n| add(who, &chain, &id(n), &namespaces[n], 10_000 + n));
        let added_each = added.iter().map(|(time, _)| *time).collect();
        let results: Vec<&Value> = added.iter().map(|(_, result)| result).collect();
        let (gone, removed) =
            in_parallel(parallel, |n| del(who, &chain, &id(n), &namespaces[n], 10_000 + n, results[n]));
        (Burst { all, each: added_each }, Burst { all: gone, each: removed.into_iter().collect() })
    });
}

/// Calls `work` for each attachment, so many at once, on threads that are in the node's namespaces as this one is.
fn in_parallel<T: Send>(parallel: usize, work: impl Fn(usize) -> T + Sync) -> (Duration, Vec<T>) {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= ATTACHMENTS {
                return done;
            }
            done.push((n, work(n)));
        }
    };
    let start = Instant::now();
    let mut done: Vec<(usize, T)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..parallel).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker")).collect()
    });
    let all = start.elapsed();
    done.sort_by_key(|(n, _)| *n);
    (all, done.into_iter().map(|(_, result)| result).collect())
}
