//! The configuration as it is written: mirrors the JSON and decides nothing.

use serde::Deserialize;

/// The keys that the plugin reads.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `ipam`.
    pub ipam: IpamKeys,
}

/// `ipam`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct IpamKeys {
    /// The daemon's socket.
    pub daemon_socket_path: String,
    /// Options that are sent to the server.
    pub provide: Vec<Provide>,
    /// Options that the server is asked for.
    pub request: Vec<RequestKeys>,
    /// The metric of all routes; 0 leaves it to the kernel.
    pub priority: u32,
    /// `ipv4`, `ipv6` or both; without any, `ipv4`.
    pub families: Vec<String>,
}

/// An entry of `ipam.provide`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Provide {
    /// The option's name or number.
    pub option: String,
    /// Its value.
    pub value: String,
    /// The key of `CNI_ARGS` that has its value.
    pub from_arg: String,
}

/// An entry of `ipam.request`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RequestKeys {
    /// Nothing is asked for but what `request` names.
    pub skip_default: bool,
    /// The option's name or number.
    pub option: String,
}
