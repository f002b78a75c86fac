//! What can go wrong between us and the iptables tools.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use cni_plugin::{LockError, Protocol};
use rustix::io::Errno;

use crate::nftables::NftError;

/// An iptables operation failed; nothing of the transaction it names was applied.
#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    /// The tool isn't in PATH.
    #[error("{tool} is not in PATH: install the package iptables, or set the backend to nftables")]
    MissingTool {
        /// The executable looked for.
        tool: String,
    },
    /// The tool is there but can't be run.
    #[error("cannot run {tool}: {source}")]
    Run {
        /// The executable.
        tool: String,
        /// What the system said.
        source: io::Error,
    },
    /// Another program held the xtables lock (legacy variant only) for the whole time that we wait.
    #[error("{tool}: the xtables lock ({}) is held by {holders}: try again, or end it if it hangs", path.display())]
    LockHeld {
        /// The executable.
        tool: String,
        /// The lock's file.
        path: PathBuf,
        /// Its holders, in words.
        holders: String,
    },
    /// The tool did not end in time.
    #[error("{tool}: {processes} did not end within {seconds} s and was killed; whether it changed rules is unknown")]
    Hung {
        /// The executable.
        tool: String,
        /// The process, and those that it had started.
        processes: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// Another process doesn't let us have our turn.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The tool, or the kernel behind it, refused.
    #[error("{tool} refused{}: {message}{}", on_line(.rule.as_deref()), way_out(tool, message))]
    Refused {
        /// The executable.
        tool: String,
        /// The number of the line it complained about, from 1. With the nft variant this can be the end of the block.
        line: Option<usize>,
        /// The text of that line.
        rule: Option<String>,
        /// What it wrote to stderr.
        message: String,
    },
    /// The chain that is to mark what is masqueraded isn't there.
    #[error(
        "externalSetMarkChain: `{tool} -t nat` has no chain {chain} (kube-proxy creates KUBE-MARK-MASQ only in its modes \
         iptables and ipvs): start the program that creates it, or remove the key: then the plugin uses its own chain"
    )]
    NoMarkChain {
        /// As configured.
        chain: String,
        /// `iptables` or `ip6tables`.
        tool: &'static str,
    },
    /// The tool can't show a table, because another program has put rules into it that only nft knows.
    #[error(
        "{tool} cannot show the table {table}, because it has rules that only nft can show: see `{listing}`; set the \
         backend to nftables, or move those rules to a table of another name"
    )]
    Unreadable {
        /// The executable.
        tool: String,
        /// The table.
        table: String,
        /// What shows it.
        listing: String,
    },
    /// What iptables-nft made can't be read or removed over netlink.
    #[error(transparent)]
    Netlink(#[from] NftError),
    /// A value that can't be written into the tool's input without becoming something else.
    #[error("{value:?} cannot be part of an iptables rule: {why}")]
    Unwritable {
        /// The text, or the beginning of it.
        value: String,
        /// The tool's rule that it breaks.
        why: &'static str,
    },
    /// A host port is published by another attachment already.
    #[error(
        "host port {} {protocol} is held by {holder}: detach that container first, or request another one",
        host_port(*.host_ip, *.port)
    )]
    PortHeld {
        /// The port's protocol.
        protocol: Protocol,
        /// The host address that the holder has it on; `None` is all of them.
        host_ip: Option<IpAddr>,
        /// The port on the host.
        port: u16,
        /// The holder in words.
        holder: String,
    },
}

impl IptablesError {
    /// True if the tool ran and said no: the state of the rules isn't what was assumed, so looking at them may help.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Refused { .. } => true,
            Self::Netlink(error) => matches!(error.errno(), Some(Errno::NOENT | Errno::BUSY)),
            _ => false,
        }
    }

    /// True if the tools are missing, or cannot even read: it says nothing about the rules.
    pub(crate) fn is_about_tools(&self) -> bool {
        match self {
            Self::MissingTool { .. } | Self::Run { .. } | Self::Unreadable { .. } => true,
            Self::Refused { tool, .. } => tool.ends_with("-save"),
            _ => false,
        }
    }
}

fn host_port(ip: Option<IpAddr>, port: u16) -> String {
    ip.map_or_else(|| port.to_string(), |ip| SocketAddr::new(ip, port).to_string())
}

/// What to do about a refusal. Where the tools ask for root, they mean a capability: the root user of a container often lacks
/// it. If the rules can't even be read, the rule is not the reason.
fn way_out(tool: &str, message: &str) -> &'static str {
    if message.contains("Permission denied") {
        "; it takes CAP_NET_ADMIN in the user namespace that the network namespace belongs to"
    } else if tool.ends_with("-save") {
        "; repair it, or set the backend to nftables"
    } else {
        ""
    }
}

fn on_line(rule: Option<&str>) -> String {
    rule.map(|rule| format!(" `{rule}`")).unwrap_or_default()
}
