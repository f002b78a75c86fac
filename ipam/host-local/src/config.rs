//! The network configuration as it is written: the keys that host-local reads, and nothing more.

use std::path::PathBuf;

use cni_plugin::{CniError, ConfigArgs, DirectoryKey, Route};
use serde::Deserialize;

/// Where the Go plugin keeps its state, and so where this one does.
const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// The keys of the configuration, with addresses still as text.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Config {
    pub(crate) ipam: Option<IpamKeys>,
    pub(crate) runtime_config: RuntimeConfig,
    pub(crate) args: ConfigArgs<CniArgs>,
}

/// The `ipam` object.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct IpamKeys {
    /// A single range without a list around it: how ranges were written before there were several.
    pub(crate) subnet: String,
    pub(crate) range_start: String,
    pub(crate) range_end: String,
    pub(crate) gateway: String,
    pub(crate) ranges: Vec<Vec<RangeKeys>>,
    pub(crate) routes: Vec<Route>,
    pub(crate) resolv_conf: String,
    pub(crate) data_dir: DirectoryKey,
    /// Give up the reservations made before the node's last start. The Go plugin has no such key and ignores it.
    pub(crate) reclaim_after_reboot: bool,
}

/// One range of a set.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct RangeKeys {
    pub(crate) subnet: String,
    pub(crate) range_start: String,
    pub(crate) range_end: String,
    pub(crate) gateway: String,
}

/// What the runtime adds by the capabilities `ipRanges` and `ips`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RuntimeConfig {
    #[serde(rename = "ipRanges")]
    pub(crate) ip_ranges: Vec<Vec<RangeKeys>>,
    pub(crate) ips: Vec<String>,
}

/// `args.cni`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CniArgs {
    pub(crate) ips: Vec<String>,
}

impl Config {
    /// The directory that has a directory of reservations for each network.
    pub(crate) fn data_dir(&self) -> Result<PathBuf, CniError> {
        let key = self.ipam.as_ref().map(|ipam| ipam.data_dir.clone()).unwrap_or_default();
        key.path_or(DEFAULT_DATA_DIR, "ipam.dataDir")
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
