//! What each thread of a round does: workers attach and detach, the operator asks STATUS and GC and looks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use cni_tests::{Attachment, Call, Netns};
use serde_json::Value;

use crate::call::{End, Streams, Weather, run};
use crate::node::{Node, Scene};
use crate::random::Random;
use crate::report::{Class, Outcome};

/// How many containers a worker holds at the same time.
const HELD: usize = 3;
/// Few enough that workers want the same one.
const PORTS: u64 = 24;

/// One runtime's thread.
pub(crate) struct Worker<'a> {
    node: &'a Node<'a>,
    number: usize,
    workers: usize,
    random: Random,
    streams: Streams,
    next: usize,
    held: Vec<(usize, Attachment)>,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(node: &'a Node<'a>, number: usize, workers: usize, random: Random) -> Self {
        let streams = node.streams(&format!("worker{number}"));
        Self { node, number, workers, random, streams, next: 0, held: Vec::new() }
    }

    /// Lives until the end of the round, and then detaches all.
    pub(crate) fn work(mut self, end: &AtomicBool) {
        while !end.load(Ordering::Relaxed) {
            if self.held.len() < HELD && self.random.chance(60) {
                self.attach();
            } else if let Some(count) = (self.held.len() as u64).checked_sub(1) {
                let at = usize::try_from(self.random.below(count + 1)).unwrap_or(0);
                if self.random.chance(40) {
                    let (network, at) = self.held[at].clone();
                    self.check(network, &at);
                } else {
                    let (network, at) = self.held.swap_remove(at);
                    self.detach(network, &at);
                }
            }
        }
        for (network, at) in std::mem::take(&mut self.held) {
            self.node.moving(&at.id);
            self.clean(network, &at, false, true);
        }
    }

    /// One life's first part: fair, or disturbed in one of its plugins.
    fn attach(&mut self) {
        let network = usize::try_from(self.random.below(self.node.chains.len() as u64)).unwrap_or(0);
        let id = Node::id(self.number, self.next);
        self.next += 1;
        // The other implementation doesn't notice that a port is taken.
        let own = (self.number * 100 + self.next % 100) as u64;
        let port = if self.node.scene == Scene::Mixed { own } else { self.random.below(PORTS) };
        let port = 30_000 + u16::try_from(port).unwrap_or(0);
        let ns = self.node.sandbox.container(&id);
        let mut at = Attachment::new(&id, &ns).publish(&[(port, 80, "tcp"), (port, 53, "udp")]);
        self.node.announce(network, &at);
        let length = self.node.chains[network].types().len() as u64;
        let disturbed = usize::try_from(self.random.below(length)).unwrap_or(0);
        let weather = match self.random.below(100) {
            0..55 => Weather::Fair,
            55..80 => Weather::kill(&mut self.random),
            80..92 => Weather::shortage(&mut self.random),
            _ => return self.attach_to_dying(network, at),
        };
        if self.add(network, &mut at, disturbed, &weather, true) {
            self.node.held(&at);
            self.held.push((network, at));
            return;
        }
        let dead = self.random.chance(20);
        if dead {
            self.node.report.event("namespaces that died before DEL");
            ns.delete();
        }
        self.clean(network, &at, weather != Weather::Fair, !dead);
    }

    /// The namespace goes while the chain runs.
    fn attach_to_dying(&mut self, network: usize, mut at: Attachment) {
        self.node.report.event("namespaces that died during ADD");
        let (ns, delay) = (Netns::existing(&at.id), self.random.moment());
        thread::scope(|scope| {
            scope.spawn(move || {
                thread::sleep(delay);
                ns.delete();
            });
            self.add(network, &mut at, 0, &Weather::Fair, false);
        });
        self.clean(network, &at, false, false);
    }

    /// ADD of a chain, `disturbed` plugin in `weather` and the others in none; `fair` if only the weather excuses errors. True if all succeeded.
    fn add(&mut self, network: usize, at: &mut Attachment, disturbed: usize, weather: &Weather, fair: bool) -> bool {
        let chain = &self.node.chains[network];
        let mut previous = None;
        for (index, plugin) in chain.plugins().iter().enumerate() {
            let (call, ours) = self.call(network, "ADD", plugin, at, previous.as_ref());
            let weather = if index == disturbed && ours { weather } else { &Weather::Fair };
            match self.run("ADD", &at.id, &call, weather, fair && ours) {
                End::Success(result) => previous = result,
                _ => return false,
            }
        }
        at.result = previous;
        true
    }

    fn check(&mut self, network: usize, at: &Attachment) {
        for plugin in self.node.chains[network].plugins() {
            let (call, ours) = self.call(network, "CHECK", plugin, at, at.result.as_ref());
            let weather = if ours && self.random.chance(5) { Weather::kill(&mut self.random) } else { Weather::Fair };
            if !matches!(self.run("CHECK", &at.id, &call, &weather, ours), End::Success(_)) {
                return;
            }
        }
    }

    /// A life's last part: fair, or disturbed, with one DEL or GC after it.
    fn detach(&mut self, network: usize, at: &Attachment) {
        self.node.moving(&at.id);
        let weather = match self.random.below(100) {
            0..60 => return self.clean(network, at, false, true),
            60..85 => Weather::kill(&mut self.random),
            85..95 => Weather::shortage(&mut self.random),
            _ => {
                self.node.report.event("namespaces that died before DEL");
                Netns::existing(&at.id).delete();
                return self.clean(network, at, false, false);
            }
        };
        let plugins = self.node.chains[network].plugins();
        let disturbed = usize::try_from(self.random.below(plugins.len() as u64)).unwrap_or(0);
        for (index, plugin) in plugins.iter().enumerate().rev() {
            let (call, ours) = self.call(network, "DEL", plugin, at, at.result.as_ref());
            let weather = if index == disturbed && ours { &weather } else { &Weather::Fair };
            if !matches!(self.run("DEL", &at.id, &call, weather, ours), End::Success(_)) {
                break;
            }
        }
        self.clean(network, at, true, true);
    }

    /// One DEL, or at times one GC, after which nothing of the attachment may be left.
    fn clean(&mut self, network: usize, at: &Attachment, disturbed: bool, namespace: bool) {
        // What the other implementation's tuning writes down names no network, so that GC leaves it alone.
        let collect = self.random.chance(if disturbed { 25 } else { 3 }) && self.node.scene != Scene::Mixed;
        if collect {
            collect_garbage(self.node, network, self.workers, Some(&at.id), &self.streams);
        } else {
            for plugin in self.node.chains[network].plugins().iter().rev() {
                let (call, ours) = self.call(network, "DEL", plugin, at, at.result.as_ref());
                self.run("DEL", &at.id, &call, &Weather::Fair, ours);
            }
        }
        // In fair weather the end of the round shows what is left; where another implementation took part, GC has its say.
        if (disturbed || collect || self.random.chance(10)) && self.node.scene != Scene::Mixed {
            for line in self.node.leftovers(&at.id) {
                let by = if collect { "GC" } else { "DEL" };
                self.node.find(Class::Leak, &at.id, &format!("left by {by} of {}: {line}", at.id));
            }
        }
        if namespace {
            Netns::existing(&at.id).delete();
        }
        self.node.gone(&at.id);
    }

    /// A call, and whether it is one of the plugins under test.
    fn call(
        &mut self,
        network: usize,
        verb: &str,
        plugin: &Value,
        at: &Attachment,
        prev: Option<&Value>,
    ) -> (Call, bool) {
        let chain = &self.node.chains[network];
        // The other implementation's DEL doesn't find everything without the result.
        let may = verb == "ADD" || prev.is_some();
        match self.node.other.as_ref().filter(|_| may && self.random.chance(50)) {
            Some(other) => (chain.call(other, verb, plugin, at, prev), false),
            None => (chain.call(self.node.sandbox, verb, plugin, at, prev), true),
        }
    }

    fn run(&mut self, verb: &str, id: &str, call: &Call, weather: &Weather, fair: bool) -> End {
        one(self.node, verb, Some(id), call, weather, fair, &self.streams)
    }
}

/// Runs one call, counts it, and finds what must not happen; `fair` if an error has no excuse but the weather.
fn one(
    node: &Node<'_>,
    verb: &str,
    id: Option<&str>,
    call: &Call,
    weather: &Weather,
    fair: bool,
    streams: &Streams,
) -> End {
    let label = match weather {
        Weather::Fair => String::new(),
        Weather::Kill { after, group } => {
            node.report.event(if *group { "kills of a process group" } else { "kills of a plugin" });
            format!(
                "killed after {:.1} ms{}: ",
                after.as_secs_f64() * 1000.0,
                if *group { ", with its group" } else { "" }
            )
        }
        Weather::Under(name, wrapper) => {
            node.report.event(name);
            format!("{}: ", wrapper.join(" "))
        }
    };
    let (end, time) = run(call, weather, streams, node.watch);
    let id = id.unwrap_or_default();
    let ended = match &end {
        End::Error(code, text) => format!("code {code}: {text}"),
        End::Success(_) => "ok".to_owned(),
        other => format!("{other:?}"),
    };
    node.note(id, format!("{label}{}\n        -> {ended}", call.shell()));
    let calm = *weather == Weather::Fair;
    let outcome = match &end {
        End::Success(_) => Outcome::Ok,
        End::Killed => Outcome::Killed,
        End::Error(..) if !fair || !calm => Outcome::Failed,
        End::Error(_, text) if verb == "ADD" && node.is_known_refusal(id, text, time) => Outcome::Refused,
        End::Error(_, text) => {
            let class = if matches!(verb, "CHECK" | "STATUS") { Class::Alarm } else { Class::Refused };
            node.find(class, id, &format!("{verb} {id}: {text}"));
            Outcome::Bad
        }
        End::Bad(class, text) => {
            node.find(*class, id, &format!("{verb} {id}: {text}"));
            Outcome::Bad
        }
    };
    let timed = calm && matches!(outcome, Outcome::Ok | Outcome::Refused);
    node.report.call(verb, outcome, timed.then_some(time));
    end
}

/// GC of a network by the plugins under test, without `but`.
pub(crate) fn collect_garbage(node: &Node<'_>, network: usize, workers: usize, but: Option<&str>, streams: &Streams) {
    let chain = node.chains[network].clone().at_version("1.1.0");
    let valid = node.valid(workers, but);
    for call in chain.gc_calls(node.sandbox, &valid) {
        one(node, "GC", but, &call, &Weather::Fair, true, streams);
    }
}

/// STATUS and GC of both networks now and then, and a look at all that are attached.
pub(crate) fn operate(node: &Node<'_>, workers: usize, end: &AtomicBool) {
    let streams = node.streams("operator");
    for turn in 0.. {
        if end.load(Ordering::Relaxed) {
            return;
        }
        let network = turn % node.chains.len();
        match turn % 5 {
            0 | 2 => {
                let chain = node.chains[network].clone().at_version("1.1.0");
                for call in chain.status_calls(node.sandbox) {
                    one(node, "STATUS", None, &call, &Weather::Fair, true, &streams);
                }
            }
            1 => collect_garbage(node, network, workers, None, &streams),
            _ => node.observe(),
        }
        thread::sleep(Duration::from_millis(100));
    }
}
