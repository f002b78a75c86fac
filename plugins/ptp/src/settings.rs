//! The resolved configuration: contradictory options are refused here, and the verbs use nothing else.

use cni_attach::mtu::{self, MtuError};
use cni_attach::{MasqueradeError, MasqueradeSettings};
use cni_netfilter::UnknownBackend;
use cni_plugin::Dns;

use crate::config::Config;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Without addresses there is nothing to route.
    #[error("no plugin name provided: \"ipam\" needs a \"type\", because ptp needs addresses")]
    NoIpam,
    /// `mtu`.
    #[error(transparent)]
    Mtu(#[from] MtuError),
    /// `ipMasqTo`.
    #[error(transparent)]
    MasqueradeTo(#[from] MasqueradeError),
    /// `ipMasqBackend`.
    #[error(transparent)]
    Backend(#[from] UnknownBackend),
}

/// A configuration without contradictions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The IPAM plugin.
    pub ipam: String,
    /// In bytes; `None` leaves it to the kernel.
    pub mtu: Option<u32>,
    /// Packets that leave the network get the node's address.
    pub masquerade: MasqueradeSettings,
    /// Replaces what IPAM says.
    pub dns: Option<Dns>,
}

impl Settings {
    /// Resolves the configuration, and refuses options that can't be carried out before anything is changed.
    pub fn resolve(config: &Config) -> Result<Self, SettingsError> {
        if config.ipam.plugin_type.is_empty() {
            return Err(SettingsError::NoIpam);
        }
        Ok(Self {
            ipam: config.ipam.plugin_type.clone(),
            mtu: mtu::configured(config.mtu, &config.ipam)?,
            masquerade: MasqueradeSettings::resolve(config.ip_masq, &config.ip_masq_backend)?
                .leaving_with(config.ip_masq_to.as_deref())?,
            dns: config.dns.configured(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn resolve(value: Value) -> Result<Settings, String> {
        let config: Config = cni_plugin::json::decode(value).unwrap();
        Settings::resolve(&config).map_err(|error| error.to_string())
    }

    #[test]
    fn addresses_are_a_must() {
        assert!(resolve(json!({})).unwrap_err().starts_with("no plugin name provided"));
        let settings = resolve(json!({"ipam": {"type": "x"}})).unwrap();
        let masquerade = (settings.masquerade.enabled, settings.masquerade.backend);
        assert_eq!((settings.mtu, masquerade, settings.dns), (None, (false, None), None));
    }

    #[test]
    fn bad_values_are_named() {
        let with = |key: &str, value: Value| resolve(json!({"ipam": {"type": "x"}, key: value}));
        assert!(with("mtu", json!(70000)).unwrap_err().contains("70000"));
        assert_eq!(with("mtu", json!(-1)).unwrap().mtu, None);
        assert_eq!(with("mtu", json!(1400)).unwrap().mtu, Some(1400));
        assert!(with("ipMasqBackend", json!("pf")).unwrap_err().contains("\"pf\""));
    }
}
