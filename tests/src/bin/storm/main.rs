//! A storm: many containers come and go at once, plugins are killed, run out of things, lose their namespaces, and nothing may
//! be left, held twice, lost, or hang.
//!
//! Usage: `storm [--minutes N] [--seed N] [--scene nftables|iptables|both|kinds|mixed] [--workers N] [--other DIR] DIR`
//!        `storm --self-test DIR`: plugins that are wrong on purpose must be found out
//!
//! A storm is a sequence of rounds of about twenty seconds, each on a node of its own. The seed repeats the choices, not the
//! moments at which the machine makes of them what it does. Exits 1 if anything was found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a test program")]

mod call;
mod node;
mod random;
mod report;
mod sabotage;
mod worker;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cni_tests::verdict::{self, Stop};
use cni_tests::{Attachment, Sandbox};

use call::Watch;
use node::{Node, Scene};
use random::Random;
use report::{Class, Finding, Report};
use worker::{Worker, operate};

/// What the command line says.
#[derive(Debug)]
struct Setting {
    plugins: PathBuf,
    other: Option<PathBuf>,
    time: Duration,
    round: Duration,
    /// What no call of a plugin may take.
    deadline: Duration,
    seed: u64,
    workers: usize,
    scenes: Vec<Scene>,
}

fn main() -> ExitCode {
    verdict::install_hook();
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let self_test = words.first().is_some_and(|word| word == "--self-test");
    if self_test {
        words.remove(0);
    }
    let setting = arguments(words);
    if self_test { test_itself(&setting) } else { storm(&setting) }
}

fn arguments(words: Vec<String>) -> Setting {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |t| t.as_secs());
    let mut setting = Setting {
        plugins: PathBuf::new(),
        other: None,
        time: Duration::from_secs(100),
        round: Duration::from_secs(20),
        // Runtimes give a plugin two minutes or more; that is no time to wait for on a node that works.
        deadline: Duration::from_secs(45),
        seed: now,
        workers: 6,
        scenes: Vec::new(),
    };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| panic!("{word} needs a value"));
        let mut number = || value().parse::<f64>().unwrap_or_else(|e| panic!("{word}: {e}"));
        match word.as_str() {
            "--minutes" => setting.time = Duration::from_secs_f64(number() * 60.0),
            "--seed" => setting.seed = value().parse().unwrap_or_else(|e| panic!("{word}: {e}")),
            "--workers" => setting.workers = value().parse().unwrap_or_else(|e| panic!("{word}: {e}")),
            "--other" => setting.other = Some(directory(&value())),
            "--scene" => setting.scenes.push(match value().as_str() {
                "nftables" => Scene::Nftables,
                "iptables" => Scene::Iptables,
                "both" => Scene::Both,
                "kinds" => Scene::Kinds,
                "mixed" => Scene::Mixed,
                other => panic!("--scene: {other} is none of nftables iptables both kinds mixed"),
            }),
            _ => setting.plugins = directory(&word),
        }
    }
    assert!(
        setting.plugins.is_dir(),
        "usage: storm [--minutes N] [--seed N] [--scene NAME]... [--workers N] [--other DIR] DIR"
    );
    if setting.scenes.is_empty() {
        setting.scenes = Scene::ALL.to_vec();
    }
    if setting.other.is_none() {
        setting.scenes.retain(|scene| *scene != Scene::Mixed);
    }
    setting
}

fn directory(name: &str) -> PathBuf {
    Path::new(name).canonicalize().unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Rounds until the time is over, each scene at least once; then the figures.
fn storm(setting: &Setting) -> ExitCode {
    let (report, begun) = (Report::default(), Instant::now());
    println!("seed {}, {} workers", setting.seed, setting.workers);
    let mut rounds = 0;
    while rounds < setting.scenes.len() || begun.elapsed() + setting.round <= setting.time {
        let scene = setting.scenes[rounds % setting.scenes.len()];
        round(setting, scene, rounds as u64, &report, &|| false);
        rounds += 1;
    }
    println!("{rounds} rounds ({:?}), {:.1} minutes\n", setting.scenes, begun.elapsed().as_secs_f64() / 60.0);
    match report.print() {
        0 => ExitCode::SUCCESS,
        findings => {
            println!("\nFAILED: {findings} kinds of findings; --seed {} repeats the choices", setting.seed);
            ExitCode::FAILURE
        }
    }
}

/// One node, from its first attachment to the comparison with what it was. Nothing new begins once `enough` is true.
fn round(setting: &Setting, scene: Scene, number: u64, report: &Report, enough: &(dyn Fn() -> bool + Sync)) {
    let (watch, over) = (Watch::new(setting.deadline), AtomicBool::new(false));
    let body = |sandbox: &Sandbox| {
        let node = Node::new(sandbox, setting.other.as_deref(), scene, report, &watch);
        let _outside = sandbox.outside();
        scene.prepare();
        warm_up(&node);
        let before = node.snapshot();
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            for worker in 0..setting.workers {
                let random = Random::new(setting.seed, number * 1000 + worker as u64);
                let (node, end) = (&node, &end);
                scope.spawn(move || guarded(node, || Worker::new(node, worker, setting.workers, random).work(end)));
            }
            scope.spawn(|| guarded(&node, || operate(&node, setting.workers, &end)));
            let until = Instant::now() + setting.round;
            while Instant::now() < until && !enough() {
                thread::sleep(Duration::from_millis(100));
            }
            end.store(true, Ordering::Relaxed);
        });
        if scene == Scene::Mixed {
            // What the other implementation's DEL leaves is GC's.
            let streams = node.streams("last");
            (0..node.chains.len()).for_each(|n| worker::collect_garbage(&node, n, setting.workers, None, &streams));
        }
        node.compare(&before);
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                watch.tick();
                thread::sleep(Duration::from_millis(200));
            }
        });
        let ended = Sandbox::run(&setting.plugins, body);
        over.store(true, Ordering::Relaxed);
        if let Err(Stop::Fail(text) | Stop::Skip(text)) = ended {
            report.finding(Finding {
                class: Class::Refused,
                what: format!("the round ended: {text}"),
                history: Vec::new(),
            });
        }
    });
}

/// A thread that panics is a finding, and the others go on.
fn guarded(node: &Node<'_>, action: impl FnOnce()) {
    if let Err(Stop::Fail(text) | Stop::Skip(text)) = verdict::caught(action) {
        node.find(Class::Refused, "", &format!("a thread of the storm ended: {text}"));
    }
}

/// The first attachments leave on a node what all share: the bridge, base chains, forwarding, and what one backend's chains need
/// beside the other's, so each network has two turns. It is no part of the figures.
fn warm_up(node: &Node<'_>) {
    for (number, chain) in node.chains.iter().chain(&node.chains).enumerate() {
        let ns = node.sandbox.container(&format!("warm{number}"));
        let mut at =
            Attachment::new(&format!("warm{number}"), &ns).publish(&[(40_000, 80, "tcp"), (40_000, 53, "udp")]);
        let directories = node.other.iter().chain([node.sandbox]);
        for plugins in directories {
            chain.add(plugins, &mut at);
            chain.del(plugins, &at);
        }
        ns.delete();
    }
}

/// Every sabotage must be found out, and the plugins as they are must not be accused of it.
fn test_itself(setting: &Setting) -> ExitCode {
    let mut failed = false;
    for (number, (scene, class, plugin, _)) in sabotage::SABOTAGES.iter().enumerate() {
        let dir = sabotage::directory(&setting.plugins, number);
        let report = Report::default();
        let wrong = Setting {
            plugins: dir.clone(),
            other: None,
            deadline: Duration::from_secs(8),
            scenes: Vec::new(),
            ..*setting
        };
        round(&wrong, *scene, number as u64, &report, &|| report.has(*class));
        let _ = std::fs::remove_dir_all(dir);
        let found = report.has(*class);
        println!("{class:?} in {plugin}: {}", if found { "found" } else { "NOT FOUND" });
        if !found {
            report.print();
        }
        failed |= !found;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
