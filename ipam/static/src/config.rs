//! The configuration as it is written: mirrors the JSON and decides nothing.

use std::net::IpAddr;

use cni_plugin::{ConfigArgs, Dns, Route, addr};
use serde::Deserialize;

/// The keys that the plugin reads.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// What is handed out.
    pub ipam: Option<IpamKeys>,
    /// `args`.
    #[serde(default)]
    pub args: ConfigArgs<Ips>,
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

/// Addresses with prefix length, in `args.cni` and (capability `ips`) in `runtimeConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Ips {
    /// They replace all others.
    pub ips: Vec<String>,
}
