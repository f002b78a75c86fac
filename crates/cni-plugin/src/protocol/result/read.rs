//! A result out of JSON: `prevResult`, and what a delegate printed.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::Value;

use super::{CniResult, Dns, Interface, IpConfig, Route};
use crate::protocol::addr;
use crate::protocol::json::{self, DecodeError};
use crate::protocol::version::{ResultShape, SpecVersion};

/// Why a result can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It says that it is of a version that has another shape than the configuration's.
    #[error("the result has cniVersion {found:?}; a configuration of version {config} requires {expected:?}")]
    Version {
        /// The configuration's version.
        config: SpecVersion,
        /// The versions with the same shape.
        expected: Vec<&'static str>,
        /// What the result says.
        found: String,
    },
    /// It says that it is of a version that doesn't exist.
    #[error("unsupported CNI result version {0:?}")]
    Unknown(String),
    /// A field is not what the version wants.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl CniResult {
    /// Reads a `prevResult`. It must have the shape of the configuration's version; without a version of its own it is
    /// taken to be of that version.
    pub fn from_prev(value: Value, config: SpecVersion) -> Result<Self, ReadError> {
        let version = match stated_version(&value) {
            None => config,
            Some(text) => SpecVersion::parse(&text)
                .filter(|version| version.shape() == config.shape())
                .ok_or_else(|| ReadError::Version { config, expected: same_shape(config), found: text })?,
        };
        Self::from_value(value, version)
    }

    /// Reads what a delegate printed: any version, the configuration's if it doesn't say; null is an empty result.
    pub fn from_delegate(value: Value, config: SpecVersion) -> Result<Self, ReadError> {
        let version = match stated_version(&value) {
            Some(text) if !text.is_empty() => SpecVersion::parse(&text).ok_or(ReadError::Unknown(text))?,
            _ => config,
        };
        if value.is_null() { Ok(Self::default()) } else { Self::from_value(value, version) }
    }

    fn from_value(value: Value, version: SpecVersion) -> Result<Self, ReadError> {
        Ok(match version.shape() {
            ResultShape::Ip4Ip6 => json::decode::<Ip4Ip6>(value)?.into(),
            // The address's own version field says nothing that the address doesn't.
            ResultShape::VersionedIps | ResultShape::Current => json::decode::<Lists>(value)?.into(),
        })
    }
}

fn stated_version(value: &Value) -> Option<String> {
    let version = json::get(value.as_object()?, "cniVersion")?;
    Some(version.as_str().map_or_else(|| version.to_string(), str::to_owned))
}

fn same_shape(config: SpecVersion) -> Vec<&'static str> {
    let same = |version: &&SpecVersion| version.shape() == config.shape();
    SpecVersion::ALL.iter().filter(same).map(|version| version.as_str()).collect()
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Lists {
    interfaces: Vec<Interface>,
    ips: Vec<IpConfig>,
    routes: Vec<Route>,
    dns: Dns,
}

impl From<Lists> for CniResult {
    fn from(lists: Lists) -> Self {
        Self { interfaces: lists.interfaces, ips: lists.ips, routes: lists.routes, dns: lists.dns }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Ip4Ip6 {
    ip4: Option<OldIp>,
    ip6: Option<OldIp>,
    dns: Dns,
}

#[derive(Deserialize)]
struct OldIp {
    #[serde(with = "addr::cidr")]
    ip: IpNetwork,
    #[serde(default, with = "addr::optional")]
    gateway: Option<IpAddr>,
    #[serde(default)]
    routes: Vec<Route>,
}

impl From<Ip4Ip6> for CniResult {
    fn from(old: Ip4Ip6) -> Self {
        let mut result = Self { dns: old.dns, ..Self::default() };
        for ip in [old.ip4, old.ip6].into_iter().flatten() {
            result.ips.push(IpConfig { interface: None, address: ip.ip, gateway: ip.gateway });
            // Old routes have a destination and a gateway, nothing more.
            result.routes.extend(ip.routes.into_iter().map(|route| Route::new(route.dst, route.gw)));
        }
        result
    }
}
