//! The packet's way, step by step, as the kernel would take it.
//!
//! `ip` is a namespace's IP layer (routes, hooks, forwarding), `link` what is between two IP layers (neighbours, veth pairs,
//! bridges), `deliver` the end at a program. They hand the packet to each other until it is delivered, leaves, or is stopped.

mod bridge;
mod deliver;
mod ip;
mod link;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::ReachError;
use crate::answer::{Answer, Cause, Note, Step, Verdict};
use crate::packet::{Connection, Packet};
use crate::question::{Origin, Question};
use crate::rules::{Hook, Passage};
use crate::world::{Namespace, World};

/// A way longer than this is a circle.
const HOPS: usize = 32;

/// Why the packet goes no further.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) cause: Cause,
    pub(crate) reason: String,
    pub(crate) advice: String,
}

/// Why the walk ends before the packet's end.
#[derive(Debug)]
pub(crate) enum Halt {
    Stop(Stop),
    /// The kernel couldn't be asked.
    Error(ReachError),
}

impl<E: Into<ReachError>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// Where the packet got to.
pub(crate) enum Arrival {
    /// To this namespace's programs.
    Delivered(Rc<Namespace>, Packet),
    /// Out of what can be seen.
    Left {
        /// From this namespace.
        namespace: Rc<Namespace>,
        /// By this link.
        link: String,
        packet: Packet,
    },
}

type Walked = Result<Arrival, Halt>;

/// A stop as a result.
pub(crate) fn stop<T>(cause: Cause, reason: impl Into<String>, advice: impl Into<String>) -> Result<T, Halt> {
    Err(Halt::Stop(Stop { cause, reason: reason.into(), advice: advice.into() }))
}

/// A walk, with what it has found.
pub(crate) struct Walk<'w> {
    world: &'w World,
    /// By the namespace's inode.
    connections: HashMap<u64, Vec<Connection>>,
    steps: Vec<Step>,
    notes: Vec<Note>,
    unsure: Vec<String>,
    hops: usize,
}

impl<'w> Walk<'w> {
    fn new(world: &'w World) -> Self {
        Self { world, connections: HashMap::new(), steps: Vec::new(), notes: Vec::new(), unsure: Vec::new(), hops: 0 }
    }

    fn step(&mut self, at: &Namespace, packet: &Packet, what: impl Into<String>) {
        self.steps.push(Step { place: at.name.clone(), what: what.into(), is_reply: packet.is_reply });
    }

    fn note(&mut self, cause: Option<Cause>, text: String) {
        if !self.notes.iter().any(|note| note.text == text) {
            self.notes.push(Note { cause, text });
        }
    }

    /// One more namespace or bridge.
    fn hop(&mut self) -> Result<(), Halt> {
        self.hops += 1;
        if self.hops > HOPS {
            return stop(Cause::Loop, "the packet goes round in circles", "look at the routes along its way");
        }
        Ok(())
    }

    /// The rules of the IP layer at a hook.
    fn pass(&mut self, at: &Namespace, hook: Hook, packet: &mut Packet) -> Result<(), Halt> {
        let connections = self.connections.entry(at.netns.inode()).or_default();
        let passage = at.rules().pass(hook, packet, connections, at);
        self.passed(at, hook, packet, passage)
    }

    /// The rules of the bridge layer at a hook.
    fn pass_bridge(&mut self, at: &Namespace, hook: Hook, packet: &mut Packet) -> Result<(), Halt> {
        let passage = at.rules().pass_bridge(hook, packet, at);
        self.passed(at, hook, packet, passage)
    }

    fn passed(&mut self, at: &Namespace, hook: Hook, packet: &Packet, passage: Passage) -> Result<(), Halt> {
        let not_read = at.rules().unread.iter().map(|what| format!("could not read {what}"));
        let not_understood = passage.unsure.iter().map(|rule| {
            let text = deliver::rule_text(at, rule);
            format!("a rule of {}, chain {}, was not understood: {text}", rule.table, rule.chain)
        });
        for text in not_read.chain(not_understood) {
            let text = format!("{}: {text}", at.name);
            if !self.unsure.contains(&text) {
                self.unsure.push(text);
            }
        }
        for change in passage.translated {
            let kind = if change.of_source { "source" } else { "destination" };
            let by = match &change.by {
                Some(culprit) => format!(" by {} {}", culprit.table, culprit.chain),
                None => " as the answer of a translated connection".to_owned(),
            };
            self.step(at, packet, format!("{kind} {} becomes {}{by}", change.from, change.to));
        }
        let Some(culprit) = passage.dropped else { return Ok(()) };
        Err(Halt::Stop(deliver::dropped(at, hook, packet, &culprit)))
    }
}

/// Walks the packet, and its answer, and says what became of them.
pub(crate) fn answer(world: &World, from: &Origin, packet: Packet, question: &Question, notes: Vec<Note>) -> Answer {
    let mut walk = Walk::new(world);
    walk.notes = notes;
    let asked = packet.dst;
    let outcome = there_and_back(&mut walk, from, packet.clone(), asked);
    let mut answer = conclude(walk, &packet, question, outcome);
    if answer.verdict == Verdict::Arrives || answer.verdict == Verdict::Leaves {
        answer.notes.extend(large_packets(world, from, packet));
    }
    answer
}

/// How it ended well: delivered or left, and as what.
struct End {
    verdict: Verdict,
    reason: String,
}

fn there_and_back(walk: &mut Walk<'_>, from: &Origin, packet: Packet, asked: SocketAddr) -> Result<End, Halt> {
    let arrival = start(walk, from, packet)?;
    let (target, mut packet) = match arrival {
        Arrival::Left { namespace, link, packet } => {
            let reason = format!("it leaves {} by {link} as {packet}", namespace.name);
            deliver::note_private_source(walk, &namespace, &packet);
            return Ok(End { verdict: Verdict::Leaves, reason });
        }
        Arrival::Delivered(target, packet) => (target, packet),
    };
    let reason = deliver::to_socket(walk, &target, &packet)?;
    let first = packet.clone();
    packet = packet.answer();
    walk.hops = 0;
    match walk.send(&target, packet.clone()) {
        Err(Halt::Stop(stopped)) => Err(Halt::Stop(deliver::no_way_back(walk, &target, &first, stopped))),
        Err(error) => Err(error),
        Ok(Arrival::Left { namespace, link, .. }) => {
            let reason = format!("{reason}; the answer leaves {} by {link}", namespace.name);
            Ok(End { verdict: Verdict::Arrives, reason })
        }
        Ok(Arrival::Delivered(back, packet)) => {
            deliver::check_answer(&back, from, &packet, asked)?;
            Ok(End { verdict: Verdict::Arrives, reason })
        }
    }
}

fn start(walk: &mut Walk<'_>, from: &Origin, packet: Packet) -> Walked {
    match from {
        Origin::Program(namespace) => walk.send(namespace, packet),
        Origin::Link(port) => {
            walk.step(&port.namespace, &packet, format!("arrives by {}", port.link.name));
            walk.receive(port, packet)
        }
    }
}

fn conclude(walk: Walk<'_>, packet: &Packet, question: &Question, outcome: Result<End, Halt>) -> Answer {
    let mut answer = Answer {
        packet: question.describe(packet),
        verdict: Verdict::Stopped,
        cause: None,
        reason: String::new(),
        advice: None,
        steps: walk.steps,
        notes: walk.notes,
    };
    match outcome {
        Ok(end) => {
            (answer.verdict, answer.reason) = (end.verdict, end.reason);
            if !walk.unsure.is_empty() {
                answer.verdict = Verdict::Unsure;
            }
        }
        Err(Halt::Stop(stopped)) => {
            if !walk.unsure.is_empty() && stopped.cause.is_of_rules() {
                answer.verdict = Verdict::Unsure;
            }
            (answer.cause, answer.reason) = (Some(stopped.cause), stopped.reason);
            answer.advice = Some(stopped.advice);
        }
        Err(Halt::Error(error)) => {
            (answer.verdict, answer.reason) = (Verdict::Unsure, format!("the way can't be followed: {error}"));
        }
    }
    answer.notes.extend(walk.unsure.into_iter().map(|text| Note { cause: None, text }));
    answer
}

/// A second packet, as large as the sender's link allows: what is lost silently only then is a note.
fn large_packets(world: &World, from: &Origin, mut packet: Packet) -> Option<Note> {
    let mut walk = Walk::new(world);
    packet.length = u32::MAX;
    let Err(Halt::Stop(stopped)) = start(&mut walk, from, packet) else { return None };
    (stopped.cause == Cause::Mtu)
        .then(|| Note { cause: Some(Cause::Mtu), text: format!("{}; {}", stopped.reason, stopped.advice) })
}
