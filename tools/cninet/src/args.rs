//! The commands and their options.

use clap::{Parser, Subcommand};

use crate::connect::{Connect, Disconnect};
use crate::create::{Create, Rm};
use crate::leaks::{Gc, Scope};
use crate::ps::Filter;
use crate::verbs::Target;
use crate::why::Why;

/// All commands on one screen.
const OVERVIEW: &str = "\
Networks and attachments of this node's containers, of any runtime

Usage: cninet COMMAND [OPTIONS]; cninet COMMAND --help says more

Look        ls           networks: driver, subnets, addresses, attachments
            inspect      everything about networks, as JSON
            ps           attachments: who has this address, port, link
            leaks        what belongs to nobody that lives
            why          what keeps a packet from FROM to TO[:PORT] away
Containers  connect      a further network for a running container
            disconnect   take it away again
Networks    create       write a network's configuration
            rm, prune    remove what create has written and nobody uses
Repair      gc           remove what leaks shows
            reload       put back rules after the packet filter was flushed
cnitool     add, check, del   attach a namespace, compare, detach
            status       whether a network's plugins are ready
Shell       completions, man

Environment: NETCONFPATH  configurations (/etc/cni/net.d)
             CNI_PATH     plugins (beside cninet, /opt/cni/bin, /usr/lib/cni)
             CNI_CACHE_DIR  attachments (/var/lib/cni)
";

/// Networks and attachments of a node's containers, of any runtime
#[derive(Debug, Parser)]
#[command(name = "cninet", version, override_help = OVERVIEW, disable_help_subcommand = true, max_term_width = 80)]
pub struct Arguments {
    /// JSON instead of a table
    #[arg(long, global = true)]
    pub json: bool,
    /// Don't cut IDs and long cells
    #[arg(long, global = true)]
    pub no_trunc: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the networks of the configuration directories
    Ls,
    /// Print everything about networks, as JSON with Docker's key names
    Inspect {
        /// The networks' names; default: all
        #[arg(value_name = "NET")]
        names: Vec<String>,
    },
    /// List the attachments on the node
    Ps(Filter),
    /// List what belongs to nobody that lives: links, addresses, rules, files
    Leaks(Scope),
    /// Follow a packet and its answer, and say what stops them
    Why(Why),
    /// Connect a running container to a further network
    Connect(Connect),
    /// Disconnect a running container from a network
    Disconnect(Disconnect),
    /// Write a network's configuration
    Create(Create),
    /// Remove networks that create has written and nobody uses
    Rm(Rm),
    /// Remove all networks that create has written and nobody uses
    Prune {
        /// Don't ask on a terminal
        #[arg(long, short)]
        yes: bool,
    },
    /// Remove what leaks shows, after showing it
    Gc(Gc),
    /// Put back rules after the packet filter was flushed; containers keep running
    Reload {
        /// Only of this network
        #[arg(value_name = "NET")]
        network: Option<String>,
    },
    /// Attach a network namespace, and print the result
    Add(Target),
    /// Compare an attachment with what was made; silent if nothing is missing
    Check(Target),
    /// Detach a network namespace
    Del(Target),
    /// Ask a network's plugins whether they could attach now
    Status {
        /// The network's name
        #[arg(value_name = "NET")]
        network: String,
        /// Ignored: cnitool wants it
        #[arg(hide = true)]
        netns: Option<String>,
        /// Ignored
        #[arg(long, short, hide = true)]
        ifname: Option<String>,
    },
    /// Print the completions for a shell
    Completions {
        /// Which one
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff
    Man,
    /// Print the overview, or the help of a command
    Help {
        /// The command
        command: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_overview_has_every_command_and_fits_one_screen() {
        let command = Arguments::command();
        for subcommand in command.get_subcommands().filter(|of| of.get_name() != "help") {
            assert!(OVERVIEW.contains(subcommand.get_name()), "{}", subcommand.get_name());
        }
        assert!(OVERVIEW.lines().count() <= 24 && OVERVIEW.lines().all(|line| line.len() <= 80));
        command.debug_assert();
    }
}
