//! The resolved configuration: contradictory options are refused here, and the verbs use nothing else.

use cni_attach::ParentSettings;
use cni_attach::mtu::{self, MtuError};
use cni_attach::parent::ParentError;
use cni_net::IpVlanMode;
use cni_plugin::{CniResult, Dns};

use crate::config::Config;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// `mode`.
    #[error("mode: {0:?} is unknown: \"l2\", \"l3\" and \"l3s\" are the modes of ipvlan")]
    Mode(String),
    /// `master`.
    #[error(transparent)]
    Parent(#[from] ParentError),
    /// `mtu`.
    #[error(transparent)]
    Mtu(#[from] MtuError),
    /// A link without addresses gets no packets.
    #[error(
        "no plugin name provided: \"ipam\" needs a \"type\", unless an earlier plugin of the chain gives addresses, for an \
         ipvlan link gets its packets by their address"
    )]
    NoAddresses,
}

/// A configuration without contradictions.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The link below.
    pub parent: ParentSettings,
    /// On which layer the parent's links exchange packets.
    pub mode: IpVlanMode,
    /// In bytes; `None` is the parent's.
    pub mtu: Option<u32>,
    /// Replaces what IPAM says.
    pub dns: Option<Dns>,
}

impl Settings {
    /// Resolves the configuration, and refuses options that can't be carried out before anything is changed. The MTU's
    /// limit is the parent's, which is not known here.
    pub fn resolve(config: &Config) -> Result<Self, SettingsError> {
        Ok(Self {
            parent: ParentSettings::resolve(&config.master, config.link_in_container, config.create_master)?,
            mode: match config.mode.as_str() {
                "" | "l2" => IpVlanMode::L2,
                "l3" => IpVlanMode::L3,
                "l3s" => IpVlanMode::L3S,
                other => return Err(SettingsError::Mode(other.to_owned())),
            },
            mtu: mtu::configured(config.mtu, &config.ipam)?,
            dns: config.dns.configured(),
        })
    }
}

/// What the chain gives the link, if the configuration has no IPAM plugin.
///
/// # Errors
/// [`SettingsError::NoAddresses`].
pub fn chained<'a>(
    config: &Config,
    prev_result: Option<&'a CniResult>,
) -> Result<Option<&'a CniResult>, SettingsError> {
    if !config.ipam.plugin_type.is_empty() {
        return Ok(None);
    }
    prev_result.filter(|result| !result.ips.is_empty()).map(Some).ok_or(SettingsError::NoAddresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn config(value: Value) -> Config {
        cni_plugin::json::decode(value).unwrap()
    }

    #[test]
    fn the_default_is_layer_2_and_bad_modes_are_named() {
        assert_eq!(Settings::resolve(&config(json!({}))).unwrap().mode, IpVlanMode::L2);
        assert_eq!(Settings::resolve(&config(json!({"mode": "l3s"}))).unwrap().mode, IpVlanMode::L3S);
        let error = Settings::resolve(&config(json!({"mode": "bridge"}))).unwrap_err().to_string();
        assert!(error.contains("\"bridge\"") && error.contains("l3s"), "{error}");
    }

    #[test]
    fn addresses_come_from_ipam_or_else_from_the_chain() {
        let ip = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.5/24"}]});
        let previous = CniResult::from_delegate(ip, cni_plugin::SpecVersion::V1_0_0).unwrap();
        assert!(chained(&config(json!({"ipam": {"type": "x"}})), Some(&previous)).unwrap().is_none());
        assert!(chained(&config(json!({})), Some(&previous)).unwrap().is_some());
        for none in [None, Some(&CniResult::default())] {
            assert!(chained(&config(json!({})), none).unwrap_err().to_string().starts_with("no plugin name provided"));
        }
    }
}
