//! The configuration as it is written: mirrors the JSON and decides nothing.

use serde::Deserialize;

/// The plugin's keys.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The VRF's name, in the container.
    pub vrfname: String,
    /// Its routing table; 0 is the first that no VRF of the container has.
    pub table: u32,
}
