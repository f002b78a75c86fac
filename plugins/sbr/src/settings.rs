//! The resolved configuration: contradictory options are refused here, and the verbs use nothing else.

use std::net::IpAddr;

use cni_plugin::{Family, addr};

use crate::config::Config;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A table that there can't be.
    #[error("table: {0} is out of range: a routing table's number from 1 to 4294967295 is expected")]
    Table(i64),
    /// A gateway that is no address.
    #[error("gateways: invalid static gateway IP address: {0:?}")]
    Gateway(String),
    /// Two gateways of one family.
    #[error("gateways: {0} and {1} are of one family: one IPv4 and one IPv6 address at most are expected")]
    SameFamily(IpAddr, IpAddr),
}

/// A configuration without contradictions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The table of all addresses, which has its routes already.
    pub table: Option<u32>,
    /// The gateways of the default routes, one a family at most.
    pub gateways: Vec<IpAddr>,
    /// The routes to the interface's own subnets stay in the main table, with the source address.
    pub source_hints: bool,
}

impl Settings {
    /// Resolves the configuration, and refuses options that can't be carried out before anything is changed.
    pub fn resolve(config: &Config) -> Result<Self, SettingsError> {
        let table = |number| u32::try_from(number).ok().filter(|table| *table > 0).ok_or(SettingsError::Table(number));
        let mut gateways: Vec<IpAddr> = Vec::new();
        for text in &config.gateways {
            let gateway = addr::parse_ip(text).ok_or_else(|| SettingsError::Gateway(text.clone()))?;
            if let Some(other) = gateways.iter().find(|other| addr::same_family(**other, gateway)) {
                return Err(SettingsError::SameFamily(*other, gateway));
            }
            gateways.push(gateway);
        }
        Ok(Self { table: config.table.map(table).transpose()?, gateways, source_hints: config.add_source_hints })
    }

    /// The configured gateway of this family.
    pub fn gateway(&self, family: Family) -> Option<IpAddr> {
        self.gateways.iter().copied().find(|gateway| Family::of(*gateway) == family)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn resolve(config: Value) -> Result<Settings, String> {
        let config: Config = cni_plugin::json::decode(config).map_err(|error| error.to_string())?;
        Settings::resolve(&config).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_needed() {
        assert_eq!(resolve(json!({"table": null, "gateways": []})).unwrap(), Settings::default());
        let settings = resolve(json!({"Table": 300, "gateways": ["10.0.0.1", "fd00::1"]})).unwrap();
        assert_eq!((settings.table, settings.gateway(Family::V6)), (Some(300), Some("fd00::1".parse().unwrap())));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (config, parts) in [
            (json!({"table": 0}), &["table: 0"][..]),
            (json!({"table": -1}), &["table: -1"]),
            (json!({"table": 4_294_967_296_u64}), &["table: 4294967296"]),
            (json!({"table": "100"}), &["table", "100"]),
            (json!({"gateways": ["10.0.0.1/24"]}), &["gateways", "10.0.0.1/24"]),
            (json!({"gateways": ["10.0.0.1", "10.0.0.2"]}), &["gateways", "10.0.0.1", "10.0.0.2"]),
            (json!({"gateways": "10.0.0.1"}), &["gateways"]),
            (json!({"addSourceHints": 1}), &["addSourceHints"]),
        ] {
            let refused = resolve(config).unwrap_err();
            assert!(parts.iter().all(|part| refused.contains(part)), "{refused}");
        }
    }
}
