//! The resolved configuration: contradictory options are refused here, and the verbs use nothing else.

use cni_attach::ParentSettings;
use cni_attach::made_vlan::MAX_ID;
use cni_attach::mtu::{self, MtuError};
use cni_attach::parent::ParentError;
use cni_plugin::Dns;

use crate::config::Config;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// `vlanId`.
    #[error("vlanId: {0} is out of range: from 0, which means packets with a priority only, to {MAX_ID}")]
    VlanId(i64),
    /// `master`.
    #[error(transparent)]
    Parent(#[from] ParentError),
    /// `mtu`.
    #[error(transparent)]
    Mtu(#[from] MtuError),
}

/// A configuration without contradictions.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The link below.
    pub parent: ParentSettings,
    /// The VLAN ID.
    pub vlan_id: u16,
    /// In bytes; `None` is the parent's.
    pub mtu: Option<u32>,
    /// Replaces what IPAM says.
    pub dns: Option<Dns>,
}

impl Settings {
    /// Resolves the configuration, and refuses options that can't be carried out before anything is changed. The MTU's
    /// limit is the parent's, which is not known here.
    pub fn resolve(config: &Config) -> Result<Self, SettingsError> {
        let vlan_id = u16::try_from(config.vlan_id).ok().filter(|id| *id <= MAX_ID);
        Ok(Self {
            parent: ParentSettings::resolve(&config.master, config.link_in_container, config.create_master)?,
            vlan_id: vlan_id.ok_or(SettingsError::VlanId(config.vlan_id))?,
            mtu: mtu::configured(config.mtu, &config.ipam)?,
            dns: config.dns.configured(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_ids_range_is_named() {
        let resolve = |id: i64| {
            let config: Config = cni_plugin::json::decode(json!({"master": "eth0", "vlanId": id})).unwrap();
            Settings::resolve(&config).map(|settings| settings.vlan_id).map_err(|error| error.to_string())
        };
        assert_eq!((resolve(0), resolve(100), resolve(4094)), (Ok(0), Ok(100), Ok(4094)));
        for bad in [-1, 4095, 70000] {
            let error = resolve(bad).unwrap_err();
            assert!(error.contains("vlanId") && error.contains(&bad.to_string()) && error.contains("4094"), "{error}");
        }
    }
}
