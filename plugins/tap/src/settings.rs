//! The resolved configuration: contradictory options are refused here, and the verbs use nothing else.

use cni_attach::mac::{self, MacError};
use cni_attach::mtu::{self, MtuError};
use cni_plugin::{CniArgs, Dns, IfName, MacAddr, NameError};

use crate::config::Config;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// `mtu`.
    #[error(transparent)]
    Mtu(#[from] MtuError),
    /// The hardware address.
    #[error(transparent)]
    Mac(#[from] MacError),
    /// `bridge`.
    #[error("bridge: {0}")]
    Bridge(#[source] NameError),
}

/// A configuration without contradictions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// In bytes; `None` leaves it to the kernel.
    pub mtu: Option<u32>,
    /// Its hardware address; `None` leaves it to the kernel.
    pub mac: Option<MacAddr>,
    /// The bridge in the container.
    pub bridge: Option<IfName>,
    /// Replaces what IPAM says.
    pub dns: Option<Dns>,
}

impl Settings {
    /// Resolves the configuration, and refuses options that can't be carried out before anything is changed.
    pub fn resolve(config: &Config, args: &CniArgs) -> Result<Self, SettingsError> {
        let bridge = (!config.bridge.is_empty()).then(|| config.bridge.parse());
        Ok(Self {
            mtu: mtu::configured(config.mtu, &config.ipam)?,
            mac: mac(config, args)?,
            bridge: bridge.transpose().map_err(SettingsError::Bridge)?,
            dns: config.dns.configured(),
        })
    }
}

/// The nearest to the container wins.
fn mac(config: &Config, args: &CniArgs) -> Result<Option<MacAddr>, MacError> {
    let from_args = mac::from_args(args)?;
    mac::first_of([
        ("runtimeConfig.mac", config.runtime_config.mac.as_str()),
        ("args.cni.mac", &config.args.cni.mac),
        ("CNI_ARGS MAC", &from_args),
        ("mac", &config.mac),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn resolve(value: Value, args: &str) -> Result<Settings, String> {
        let config: Config = cni_plugin::json::decode(value).unwrap();
        Settings::resolve(&config, &CniArgs::new(args)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_nearest_hardware_address_counts() {
        let mac = |n: u8| format!("02:00:00:00:00:0{n}");
        let all = json!({"mac": mac(1), "runtimeConfig": {"mac": mac(3)}});
        let found = |value: Value, args: &str| resolve(value, args).unwrap().mac.map(|mac| mac.to_string());
        let args = format!("MAC={}", mac(2));
        assert_eq!(found(all, &args), Some(mac(3)));
        assert_eq!(found(json!({"mac": mac(1)}), &args), Some(mac(2)));
        assert_eq!(found(json!({"mac": mac(1)}), ""), Some(mac(1)));
        assert_eq!(found(json!({}), ""), None);
    }

    #[test]
    fn bad_values_are_named() {
        for (key, value) in [
            ("mac", json!("02:00")),
            ("mac", json!("01:00:5e:00:00:01")),
            ("mtu", json!(70000)),
            ("bridge", json!("a/b")),
        ] {
            let error = resolve(json!({key: value}), "").unwrap_err();
            assert!(error.starts_with(key), "{error}");
        }
    }
}
