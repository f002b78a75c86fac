//! The state of the agent, for `/healthz` and `/metrics`.

use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// What is known at the moment.
#[derive(Debug, Default)]
pub struct Status {
    /// Why the source can't be asked.
    pub away: Option<String>,
    /// When the source answered last.
    pub contact: Option<SystemTime>,
    /// What is not as it should be on the node.
    pub problems: Vec<String>,
    /// How many nodes the source has named.
    pub nodes: usize,
    /// How many routes, neighbours, forwarding entries or peers there are.
    pub entries: usize,
    /// How many addresses and subnets contradict others and are not used.
    pub refused: usize,
    /// How many entries were added or removed.
    pub changes: u64,
    /// How often the node was compared with what it should have,
    pub rounds: u64,
    /// and how long that took.
    pub spent: Duration,
}

/// The status, shared by threads.
#[derive(Debug, Clone, Default)]
pub struct Shared(Arc<Mutex<Status>>);

impl Shared {
    /// The status, locked. A thread that panicked has left it as it was.
    pub fn lock(&self) -> MutexGuard<'_, Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Status {
    /// Why it isn't healthy, a line each; empty if it is.
    pub fn troubles(&self) -> String {
        let mut text = String::new();
        if let Some(why) = &self.away {
            let _ = writeln!(text, "source: {why}");
        }
        if self.rounds == 0 {
            text.push_str("the nodes are not known yet\n");
        }
        for problem in &self.problems {
            let _ = writeln!(text, "{problem}");
        }
        text
    }

    /// As Prometheus reads it (text format 0.0.4).
    pub fn metrics(&self) -> String {
        let contact = self.contact.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
        let number = |count: usize| count.to_string();
        let rows: [(&str, &str, &str, String); 9] = [
            (
                "source_up",
                "gauge",
                "1 if the source answers",
                u8::from(self.away.is_none() && self.contact.is_some()).to_string(),
            ),
            (
                "source_last_contact_seconds",
                "gauge",
                "When the source answered last, Unix time",
                contact.as_secs().to_string(),
            ),
            ("nodes", "gauge", "Nodes that the source names", number(self.nodes)),
            (
                "refused",
                "gauge",
                "Addresses and subnets of nodes that contradict others and are not used",
                number(self.refused),
            ),
            (
                "entries",
                "gauge",
                "Routes, neighbours, forwarding entries and peers of other nodes",
                number(self.entries),
            ),
            ("problems", "gauge", "What is not as it should be on the node", number(self.problems.len())),
            ("changes_total", "counter", "Entries added or removed", self.changes.to_string()),
            ("rounds_total", "counter", "Comparisons of the node with what it should have", self.rounds.to_string()),
            ("rounds_seconds_total", "counter", "Time spent in them", format!("{:.6}", self.spent.as_secs_f64())),
        ];
        let mut text = String::new();
        for (name, kind, help, value) in rows {
            let _ = write!(
                text,
                "# HELP cni_noded_{name} {help}\n# TYPE cni_noded_{name} {kind}\ncni_noded_{name} {value}\n"
            );
        }
        text
    }
}
