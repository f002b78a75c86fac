//! What the plugin asks the resolver, and what that answers: a line of JSON each, on a socket that only root can connect to.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::name::Name;

/// No answer is longer, in bytes.
pub const LONGEST: u64 = 1 << 20;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Does a resolver run?
    Alive,
    /// What does the container with this file find under its own names?
    Names {
        /// The directory of its network.
        directory: String,
        /// The name of its file.
        key: String,
    },
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The inode of the network namespace that the resolver listens in.
    pub netns: u64,
    /// Where it should listen and can't, with the reason.
    pub failed: Vec<String>,
    /// Each name with what is found under it; none if there is no such file.
    pub names: Option<Vec<(Name, Vec<IpAddr>)>>,
}
