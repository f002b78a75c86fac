//! The network configuration as it is written: the keys that host-local reads, and nothing more.

use std::path::PathBuf;

use cni_plugin::json::DecodeError;
use cni_plugin::{CniError, ConfigArgs, Route, Undecoded};
use serde::Deserialize;
use serde_json::Value;

/// Where the Go plugin keeps its state, and so where this one does.
const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// The whole configuration, not decoded yet.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Config(Undecoded);

/// The keys of the configuration, with addresses still as text.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Keys {
    #[serde(default)]
    pub(crate) ipam: Option<IpamKeys>,
    #[serde(default)]
    pub(crate) runtime_config: RuntimeConfig,
    #[serde(default)]
    pub(crate) args: ConfigArgs<CniArgs>,
}

/// The `ipam` object.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IpamKeys {
    /// A single range without a list around it: how ranges were written before there were several.
    #[serde(default)]
    pub(crate) subnet: String,
    #[serde(default)]
    pub(crate) range_start: String,
    #[serde(default)]
    pub(crate) range_end: String,
    #[serde(default)]
    pub(crate) gateway: String,
    #[serde(default)]
    pub(crate) ranges: Vec<Vec<RangeKeys>>,
    #[serde(default)]
    pub(crate) routes: Vec<Route>,
    #[serde(default)]
    pub(crate) resolv_conf: String,
}

/// One range of a set.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RangeKeys {
    #[serde(default)]
    pub(crate) subnet: String,
    #[serde(default)]
    pub(crate) range_start: String,
    #[serde(default)]
    pub(crate) range_end: String,
    #[serde(default)]
    pub(crate) gateway: String,
}

/// What the runtime adds by the capabilities `ipRanges` and `ips`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct RuntimeConfig {
    #[serde(default, rename = "ipRanges")]
    pub(crate) ip_ranges: Vec<Vec<RangeKeys>>,
    #[serde(default)]
    pub(crate) ips: Vec<String>,
}

/// `args.cni`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct CniArgs {
    #[serde(default)]
    pub(crate) ips: Vec<String>,
}

impl Config {
    /// Decodes every key.
    pub(crate) fn keys(&self) -> Result<Keys, DecodeError> {
        self.0.decode()
    }

    /// Where the state is.
    pub(crate) fn data_dir(&self) -> Result<PathBuf, CniError> {
        self.0.directory(&["ipam", "dataDir"], DEFAULT_DATA_DIR)
    }

    /// True if reservations made before the node's last start are to be given up (`ipam.reclaimAfterReboot`, ours; the
    /// Go plugin ignores it).
    pub(crate) fn reclaim_after_reboot(&self) -> Result<bool, CniError> {
        match self.0.get(&["ipam", "reclaimAfterReboot"]) {
            None => Ok(false),
            Some(Value::Bool(reclaim)) => Ok(*reclaim),
            Some(other) => Err(CniError::plugin(format!(
                "ipam.reclaimAfterReboot: true or false is expected, and this is {other}"
            ))),
        }
    }
}

impl IpamKeys {
    /// The range written without a list, if there is one.
    pub(crate) fn single_range(&self) -> Option<RangeKeys> {
        (!self.subnet.is_empty()).then(|| RangeKeys {
            subnet: self.subnet.clone(),
            range_start: self.range_start.clone(),
            range_end: self.range_end.clone(),
            gateway: self.gateway.clone(),
        })
    }
}
