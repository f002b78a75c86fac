//! What on the node belongs to nobody that lives: `leaks` shows it, `gc` removes it.
//!
//! An attachment is valid if the cache has it and its namespace lives. Everything that plugins write an owner on is read
//! (`traces`), and what has no valid owner is a leak (`survey`). An attachment that is just being made has no cache file yet: what
//! has a living namespace but no file is not removed unless it is asked for.

mod gc;
mod survey;
mod traces;

use serde::Serialize;

use crate::failure::Failure;
use crate::node::Node;
use crate::output::{self, Table, short};

pub use gc::gc;
use survey::{Leak, Survey};

/// What `leaks` and `gc` have in common.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Scope {
    /// Only what is of this network
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// Also what lives, but has no file in the cache
    #[arg(long)]
    pub unrecorded: bool,
}

/// What to remove, and how.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Gc {
    #[command(flatten)]
    scope: Scope,
    /// Show what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Also if no attachment is valid, as after a reboot
    #[arg(long)]
    all: bool,
    /// Don't ask on a terminal
    #[arg(long, short)]
    yes: bool,
}

/// A leak in the output of `leaks --json` and `gc --json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    /// `cache`, `link`, `address`, `rules`, …
    kind: &'static str,
    what: String,
    place: String,
    /// Empty if it is not known.
    network: String,
    container_id: String,
    if_name: String,
    reason: String,
}

impl Row {
    fn of(leak: &Leak) -> Self {
        let (network, container_id, if_name) = leak.names();
        Self {
            kind: leak.trace.kind,
            what: leak.trace.what.clone(),
            place: leak.trace.place.clone(),
            network,
            container_id,
            if_name,
            reason: leak.reason.clone(),
        }
    }
}

/// Prints what is left over.
pub fn leaks(node: &Node, scope: &Scope, json: bool, whole: bool) -> Result<(), Failure> {
    let survey = Survey::of(node)?;
    let found = survey.leaks(scope);
    if json {
        return output::json(&found.iter().map(|leak| Row::of(leak)).collect::<Vec<_>>());
    }
    survey.say(scope);
    print(&found, whole)
}

fn print(leaks: &[&Leak], whole: bool) -> Result<(), Failure> {
    let mut table = Table::new(&["KIND", "WHAT", "NETWORK", "CONTAINER", "WHY"], whole);
    for leak in leaks {
        let (network, container, _) = leak.names();
        let id = if whole { container } else { short(&container) };
        table.row([leak.trace.kind.to_owned(), leak.trace.what.clone(), network, id, leak.reason.clone()]);
    }
    table.print()
}
