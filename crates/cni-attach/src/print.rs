//! Plans as commands of `ip` and `sysctl`, for people and for golden files.

use std::fmt;

/// Where a link is, and what a command is for. Prints itself as "on the node", "in the container".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The node's network namespace.
    Node,
    /// The container's.
    Container,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "on the node",
            Self::Container => "in the container",
        })
    }
}

impl Place {
    /// A command of `ip`.
    pub fn ip(self, arguments: &str) -> String {
        match self {
            Self::Node => format!("ip {arguments}"),
            Self::Container => format!("ip -n CONTAINER {arguments}"),
        }
    }

    /// The command that writes this sysctl, whose path is as [`cni_net::sysctl::write`] takes it.
    pub fn sysctl(self, path: &str, value: &str) -> String {
        match self {
            Self::Node => format!("sysctl -w {path}={value}"),
            Self::Container => format!("ip netns exec CONTAINER sysctl -w {path}={value}"),
        }
    }
}

/// The commands, a line each.
pub fn lines(commands: &[String]) -> String {
    commands.iter().map(|command| format!("{command}\n")).collect()
}
