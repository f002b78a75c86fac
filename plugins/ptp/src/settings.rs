//! What remains of the configuration when every contradiction has been refused. Effects take nothing else.

use cni_net::{MtuError, mtu};
use cni_netfilter::{Backend, UnknownBackend};
use cni_plugin::Dns;

use crate::config::Config;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Without addresses there is nothing to route.
    #[error("no plugin name provided: \"ipam\" needs a \"type\", for ptp needs addresses")]
    NoIpam,
    /// `mtu`.
    #[error(transparent)]
    Mtu(#[from] MtuError),
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
    /// What leaves the network gets the node's address.
    pub masquerade: bool,
    /// Who masquerades; `None` is for the node to decide.
    pub backend: Option<Backend>,
    /// Replaces what IPAM says.
    pub dns: Option<Dns>,
}

impl Settings {
    /// Refuses what can't be carried out, before anything has been touched.
    pub fn resolve(config: &Config) -> Result<Self, SettingsError> {
        if config.ipam.plugin_type.is_empty() {
            return Err(SettingsError::NoIpam);
        }
        let mtu = mtu::configured(config.mtu)?;
        mtu::refuse_ipv6(mtu, config.ipam.networks())?;
        Ok(Self {
            ipam: config.ipam.plugin_type.clone(),
            mtu,
            masquerade: config.ip_masq,
            backend: Backend::configured(&config.ip_masq_backend)?,
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
        assert_eq!((settings.mtu, settings.masquerade, settings.backend, settings.dns), (None, false, None, None));
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
