//! The configuration as it is written: mirrors the JSON and decides nothing.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The plugin's keys.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// The domain that names are also found in.
    pub domain_name: String,
    /// The keys of `CNI_ARGS` of which the first with a value names the container.
    pub name_from: Option<Vec<String>>,
    /// The servers that are asked for other names; absent are those of the node.
    pub upstream: Option<Vec<String>>,
    /// Whatever server a container asks, the resolver answers.
    pub intercept: bool,
    /// `iptables` or `nftables`; empty leaves the choice to the node.
    pub backend: String,
    /// What the runtime adds for a capability.
    pub runtime_config: RuntimeConfig,
}

/// `runtimeConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RuntimeConfig {
    /// The capability `aliases`.
    pub aliases: Aliases,
}

/// Further names of the container.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Aliases {
    /// As CONVENTIONS.md has it.
    List(Vec<String>),
    /// As Podman has it: by network.
    ByNetwork(BTreeMap<String, Option<Vec<String>>>),
}

impl Default for Aliases {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}
