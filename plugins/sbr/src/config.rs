//! The configuration as it is written: mirrors the JSON and decides nothing.

use serde::Deserialize;

/// The plugin's keys.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// A table that has its routes already: only rules are added.
    pub table: Option<i64>,
    /// The gateways of the default routes, one a family.
    pub gateways: Vec<String>,
    /// The routes to the interface's own subnets stay in the main table, with the source address.
    pub add_source_hints: bool,
}
