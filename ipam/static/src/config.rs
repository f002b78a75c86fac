//! The configuration as it is written: mirrors the JSON and decides nothing.

use std::net::IpAddr;

use cni_plugin::json::{self, DecodeError};
use cni_plugin::{Dns, Route, addr};
use serde::Deserialize;
use serde_json::Value;

/// The whole configuration, not decoded yet: DEL and GC must succeed with one that ADD would refuse.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct Config(pub Value);

/// The keys that the plugin reads.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Keys {
    /// What is handed out.
    pub ipam: Option<IpamKeys>,
    /// `args`.
    #[serde(default)]
    pub args: Args,
    /// What the runtime adds for a capability.
    #[serde(default)]
    pub runtime_config: Ips,
}

/// `ipam`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct IpamKeys {
    /// The addresses.
    pub addresses: Vec<AddressKeys>,
    /// The routes, returned as they are.
    pub routes: Vec<Route>,
    /// Name resolution, returned as it is.
    pub dns: Dns,
}

/// An entry of `ipam.addresses`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct AddressKeys {
    /// The address with its prefix length.
    pub address: String,
    /// The gateway of its subnet.
    #[serde(with = "addr::optional")]
    pub gateway: Option<IpAddr>,
}

/// `args`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Args {
    /// The arguments meant for CNI plugins.
    pub cni: Ips,
}

/// Addresses with prefix length, in `args.cni` and (capability `ips`) in `runtimeConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Ips {
    /// They replace all others.
    pub ips: Vec<String>,
}

impl Config {
    /// Decodes every key.
    pub fn keys(&self) -> Result<Keys, DecodeError> {
        json::decode(self.0.clone())
    }
}
