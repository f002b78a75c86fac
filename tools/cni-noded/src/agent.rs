//! Decides and acts: compares what the source says with what the node has, whenever either has changed.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use cni_net::{Changes, Events, Netlink};
use nix::sys::signal::{SigSet, Signal};

use crate::backend::{self, Backend, Done};
use crate::log;
use crate::network::{self, Values};
use crate::node::Node;
use crate::serve;
use crate::settings::{Network, Settings};
use crate::source::{self, Reporter};
use crate::status::Shared;
use crate::view::{Held, View, view};

/// The node is compared this often also if nothing has happened: the kernel does not report everything, and the
/// deletion of the network's file is not reported.
const UNASKED: Duration = Duration::from_secs(10);
/// After a report of the kernel others follow, of the same change.
const SETTLE: Duration = Duration::from_millis(50);
/// From a signal to the end, at most.
const GRACE: Duration = Duration::from_millis(700);
/// After a failure.
const RETRY: Duration = Duration::from_secs(2);

/// What the agent is woken by.
#[derive(Debug)]
pub enum Message {
    /// The nodes that there are.
    Nodes(Vec<Node>),
    /// Something of the node's network has changed.
    Kernel(Changes),
    /// SIGTERM or SIGINT.
    End,
}

struct Agent {
    /// This node's name.
    node: String,
    network: Option<Network>,
    netlink: Netlink,
    backend: Box<dyn Backend>,
    status: Shared,
    nodes: Option<Vec<Node>>,
    /// Where subnets lead to until now.
    held: Held,
    /// What was logged of them.
    refused: Vec<String>,
}

/// Runs until a signal ends it. What it has made stays.
///
/// # Errors
/// What keeps it from beginning.
pub fn run(settings: Settings) -> Result<(), String> {
    let (sender, receiver) = channel();
    // Before any other thread begins, which inherit the mask.
    signals(&sender)?;
    let status = Shared::default();
    if let Some(address) = settings.listen {
        let listener = serve::listen(address).map_err(|error| format!("listen: cannot bind {address}: {error}"))?;
        let status = status.clone();
        thread::spawn(move || serve::serve(&listener, &status));
    }
    let netlink = Netlink::open().map_err(|error| error.to_string())?;
    let mut backend = backend::open(&settings.backend).map_err(|error| error.to_string())?;
    // Before the first comparison: what changes from now on is reported.
    kernel(&sender)?;
    let held = backend.held().map_err(|error| error.to_string())?;
    let Settings { source, node, network, .. } = settings;
    let reporter = Reporter { agent: sender, status: status.clone() };
    thread::spawn(move || source::follow(&source, &reporter));
    let mut agent = Agent { node, network, netlink, backend, status, nodes: None, held, refused: Vec::new() };
    agent.serve(&receiver);
    Ok(())
}

fn signals(sender: &Sender<Message>) -> Result<(), String> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.thread_block().map_err(|errno| format!("cannot block signals: {errno}"))?;
    let sender = sender.clone();
    thread::spawn(move || {
        // It fails on an invalid set only.
        let _ = set.wait();
        let _ = sender.send(Message::End);
        // Something holds the agent up: a lock of a plugin, say. Files are written by rename, and the next process compares the rest.
        thread::sleep(GRACE);
        std::process::exit(0);
    });
    Ok(())
}

fn kernel(sender: &Sender<Message>) -> Result<(), String> {
    let events = Events::open().map_err(|error| error.to_string())?;
    let sender = sender.clone();
    thread::spawn(move || {
        loop {
            match events.wait() {
                Ok(changes) if changes.any() => drop(sender.send(Message::Kernel(changes))),
                Ok(_) => {}
                Err(_) => thread::sleep(RETRY),
            }
        }
    });
    Ok(())
}

impl Agent {
    fn serve(&mut self, receiver: &Receiver<Message>) {
        let mut pause = UNASKED;
        loop {
            let first = match receiver.recv_timeout(pause) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if matches!(first, Some(Message::Kernel(_))) {
                thread::sleep(SETTLE);
            }
            let mut changes = Changes { links: first.is_none(), ..Changes::default() };
            for message in first.into_iter().chain(receiver.try_iter()) {
                match message {
                    Message::Nodes(nodes) => self.nodes = Some(nodes),
                    Message::Kernel(more) => changes.links |= more.links,
                    Message::End => return,
                }
            }
            if changes.links {
                self.backend.forget();
            }
            pause = if self.look() { UNASKED } else { RETRY };
        }
    }

    /// Makes the node what the nodes ask for; false if something is to be tried again.
    fn look(&mut self) -> bool {
        let Some(nodes) = self.nodes.take() else { return true };
        let began = Instant::now();
        let outcome = self.apply(&nodes);
        let is_whole = {
            let mut status = self.status.lock();
            status.rounds += 1;
            status.spent += began.elapsed();
            status.nodes = nodes.len();
            status.entries = outcome.entries;
            status.changes += outcome.changes as u64;
            for problem in outcome.problems.iter().filter(|problem| !status.problems.contains(problem)) {
                log::line(problem);
            }
            if outcome.problems.is_empty() && !status.problems.is_empty() {
                log::line("all is as it should be again");
            }
            status.problems = outcome.problems;
            status.problems.is_empty()
        };
        self.nodes = Some(nodes);
        is_whole
    }

    fn apply(&mut self, nodes: &[Node]) -> Done {
        let local = self.local(nodes);
        let Some(view) = view(nodes, &self.node, &|address| local.contains(&address), &self.held) else {
            let why = format!(
                "this node, {}, is not among the {} nodes of the source, and none of them has an address of this node; nothing changes \
                 meanwhile",
                self.node,
                nodes.len()
            );
            return Done { problems: vec![why], ..Done::default() };
        };
        self.refuse(&view);
        self.held = held(&view);
        let mut done = self.backend.apply(&self.netlink, &view);
        // Last, because it makes the node ready for containers.
        if let Err(why) = self.write(&view) {
            done.problems.push(why);
        }
        done
    }

    /// The addresses of this node among those of the nodes, if no node has its name.
    fn local(&self, nodes: &[Node]) -> HashSet<IpAddr> {
        if nodes.iter().any(|node| node.name == self.node) {
            return HashSet::new();
        }
        let addresses = nodes.iter().flat_map(|node| &node.addresses);
        let is_own = |address: &IpAddr| self.netlink.link_of_address(*address).is_ok_and(|link| link.is_some());
        addresses.copied().filter(is_own).collect()
    }

    fn refuse(&mut self, view: &View) {
        for why in view.refused.iter().filter(|why| !self.refused.contains(why)) {
            log::line(why);
        }
        self.status.lock().refused = view.refused.len();
        self.refused.clone_from(&view.refused);
    }

    fn write(&self, view: &View) -> Result<(), String> {
        let Some(file) = &self.network else { return Ok(()) };
        let path = file.directory.join(&file.file);
        if view.own.subnets.is_empty() {
            return Err(format!("this node, {}, has no subnet yet; {} is not written", view.own.name, path.display()));
        }
        let Some(values) = self.backend.values(view) else { return Ok(()) };
        let Values { parts, .. } = &values;
        match network::write(file, &values) {
            Ok(false) => Ok(()),
            Ok(true) => {
                let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
                log::line(&format!("wrote {}: {}", path.display(), parts.join(", ")));
                Ok(())
            }
            Err(error) => Err(format!("cannot write {}: {error}", path.display())),
        }
    }
}

fn held(view: &View) -> Held {
    let of_node = |node: &Node| {
        let address = node.addresses.first().copied();
        node.subnets.iter().filter_map(move |subnet| Some((*subnet, address?))).collect::<Vec<_>>()
    };
    view.others.iter().flat_map(of_node).collect()
}
