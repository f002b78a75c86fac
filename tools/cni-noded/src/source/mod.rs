//! Where the nodes are known from. Each source is a thread that reports all nodes whenever they have changed, and that it can't ask; it
//! never ends by itself.

mod etcd;
mod file;
pub mod http;
mod kubernetes;

use std::sync::mpsc::Sender;
use std::time::SystemTime;

use crate::agent::Message;
use crate::log;
use crate::node::Node;
use crate::settings::Source;
use crate::status::Shared;

/// To whom a source reports.
#[derive(Debug, Clone)]
pub struct Reporter {
    /// The agent.
    pub agent: Sender<Message>,
    /// Where it is noted when the source has answered.
    pub status: Shared,
}

impl Reporter {
    /// These are the nodes.
    pub fn nodes(&self, nodes: Vec<Node>) {
        self.alive();
        // The agent is gone when the process ends.
        let _ = self.agent.send(Message::Nodes(nodes));
    }

    /// The source has answered.
    pub fn alive(&self) {
        let mut status = self.status.lock();
        status.contact = Some(SystemTime::now());
        if status.away.take().is_some() {
            log::line("the source answers again");
        }
    }

    /// True as long as it can't be asked.
    pub fn is_away(&self) -> bool {
        self.status.lock().away.is_some()
    }

    /// The source can't be asked, and so nothing changes. Each reason is logged once.
    pub fn away(&self, why: &str) {
        let mut status = self.status.lock();
        if status.away.as_deref() != Some(why) {
            log::line(&format!("{why}; nothing changes meanwhile"));
            status.away = Some(why.to_owned());
        }
    }
}

/// Follows the source for ever.
pub fn follow(source: &Source, reporter: &Reporter) {
    match source {
        Source::File(path) => file::follow(path, reporter),
        Source::Etcd(settings) => etcd::follow(settings, reporter),
        Source::Kubernetes(settings) => kubernetes::follow(settings, reporter),
    }
}
