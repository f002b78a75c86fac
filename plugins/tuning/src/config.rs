//! The configuration as it is written: mirrors the JSON and decides nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cni_plugin::CniError;
use cni_plugin::json::{self, DecodeError};
use serde::Deserialize;
use serde_json::Value;

/// Where the Go plugin keeps its backups, and so where this one does.
const DEFAULT_DATA_DIR: &str = "/run/cni/tuning";

/// The whole configuration, not decoded yet: DEL and GC must work with one that ADD would refuse.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct Config(pub Value);

/// What can be set, at the top and in `args.cni`; what is absent stays as it is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Tunables {
    /// Values by name: `net.ipv4.conf.IFNAME.arp_filter`.
    pub sysctl: BTreeMap<String, String>,
    /// The interface's hardware address.
    pub mac: Option<String>,
    /// In bytes; 0 leaves it.
    pub mtu: Option<i64>,
    /// It receives every frame; false leaves it.
    pub promisc: Option<bool>,
    /// It receives every multicast frame.
    pub allmulti: Option<bool>,
    /// Length of the transmit queue, in packets.
    #[serde(rename = "txQLen")]
    pub tx_q_len: Option<u32>,
}

/// The keys that come from elsewhere than the network's author.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Channels {
    /// What the runtime adds for a capability.
    pub runtime_config: RuntimeConfig,
    /// Conventions outside the specification.
    pub args: Args,
}

/// `runtimeConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RuntimeConfig {
    /// The interface's hardware address (capability `mac`).
    pub mac: String,
}

/// `args`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Args {
    /// The arguments meant for CNI plugins.
    pub cni: Tunables,
}

impl Config {
    /// Decodes every key.
    pub fn keys(&self) -> Result<(Tunables, Channels), DecodeError> {
        Ok((json::decode(self.0.clone())?, json::decode(self.0.clone())?))
    }

    /// Where the backups are. A value that isn't a path is refused: a default in its place would be other backups.
    pub fn data_dir(&self) -> Result<PathBuf, CniError> {
        match self.0.as_object().and_then(|object| json::get(object, "dataDir")) {
            None => Ok(PathBuf::from(DEFAULT_DATA_DIR)),
            Some(Value::String(path)) if path.is_empty() => Ok(PathBuf::from(DEFAULT_DATA_DIR)),
            Some(Value::String(path)) => Ok(PathBuf::from(path)),
            Some(other) => Err(CniError::plugin(format!("dataDir: a path is expected, and this is {other}"))),
        }
    }
}
