//! The configuration as it is written: mirrors the JSON and decides nothing.

use serde::Deserialize;

/// The limits, at the top or in `runtimeConfig.bandwidth`. "Ingress" and "egress" are the container's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Limits {
    /// What the container may receive, in bits a second; 0 is no limit.
    pub ingress_rate: Option<u64>,
    /// How much of it at once, in bits.
    pub ingress_burst: Option<u64>,
    /// What the container may send, in bits a second; 0 is no limit.
    pub egress_rate: Option<u64>,
    /// How much of it at once, in bits.
    pub egress_burst: Option<u64>,
}

/// The plugin's keys. The first four are those of [`Limits`].
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// See [`Limits::ingress_rate`].
    pub ingress_rate: Option<u64>,
    /// See [`Limits::ingress_burst`].
    pub ingress_burst: Option<u64>,
    /// See [`Limits::egress_rate`].
    pub egress_rate: Option<u64>,
    /// See [`Limits::egress_burst`].
    pub egress_burst: Option<u64>,
    /// Where the container's sending is limited: `ifb` or `container`.
    pub egress_device: Option<String>,
    /// A key of v1.5 and v1.6.0 only.
    pub shaped_subnets: Vec<String>,
    /// A key of v1.5 and v1.6.0 only.
    pub unshaped_subnets: Vec<String>,
    /// What the runtime adds for a capability.
    pub runtime_config: RuntimeConfig,
}

impl Config {
    /// The limits at the top.
    pub fn limits(&self) -> Limits {
        let &Self { ingress_rate, ingress_burst, egress_rate, egress_burst, .. } = self;
        Limits { ingress_rate, ingress_burst, egress_rate, egress_burst }
    }
}

/// `runtimeConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RuntimeConfig {
    /// The capability `bandwidth`.
    pub bandwidth: Option<Limits>,
}
