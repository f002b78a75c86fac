//! The resolved configuration: contradictory options are refused here, and the verbs use nothing else.

use cni_attach::ParentSettings;
use cni_attach::mac::{self, MacError};
use cni_attach::mtu::{self, MtuError};
use cni_attach::parent::ParentError;
use cni_attach::shim::{Shim, ShimError};
use cni_net::MacVlanMode;
use cni_plugin::{CniArgs, Dns, MacAddr};

use crate::config::Config;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// `mode`.
    #[error("mode: {0:?} is unknown: \"bridge\", \"private\", \"vepa\" and \"passthru\" are the modes of macvlan")]
    Mode(String),
    /// `bcqueuelen`.
    #[error("bcqueuelen: {0} is out of range: from 0, which leaves it to the kernel, to {max}", max = u32::MAX)]
    BcQueueLen(i64),
    /// `master`.
    #[error(transparent)]
    Parent(#[from] ParentError),
    /// The container's hardware address.
    #[error(transparent)]
    Mac(#[from] MacError),
    /// `mtu`.
    #[error(transparent)]
    Mtu(#[from] MtuError),
    /// `hostShim`.
    #[error(transparent)]
    Shim(#[from] ShimError),
    /// The shim reaches containers in bridge mode only, by their addresses.
    #[error("hostShim needs {0}")]
    ShimNeeds(&'static str),
}

/// A configuration without contradictions.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The link below.
    pub parent: ParentSettings,
    /// Which of the links on the same parent the container exchanges packets with.
    pub mode: MacVlanMode,
    /// The length of the queue of broadcasts; `None` leaves it to the kernel.
    pub bc_queue_len: Option<u32>,
    /// In bytes; `None` is the parent's.
    pub mtu: Option<u32>,
    /// The container's hardware address, if it is given.
    pub mac: Option<MacAddr>,
    /// The node's own link to the containers.
    pub shim: Option<Shim>,
    /// Replaces what IPAM says.
    pub dns: Option<Dns>,
}

impl Settings {
    /// Resolves the configuration, and refuses options that can't be carried out before anything is changed. The MTU's
    /// limit is the parent's, which is not known here.
    pub fn resolve(config: &Config, args: &CniArgs) -> Result<Self, SettingsError> {
        let mode = mode(&config.mode)?;
        let from_args = mac::from_args(args)?;
        Ok(Self {
            parent: ParentSettings::resolve(&config.master, config.link_in_container, config.create_master)?,
            mode,
            bc_queue_len: bc_queue_len(config.bc_queue_len)?,
            mtu: mtu::configured(config.mtu, &config.ipam)?,
            mac: mac::first_of([
                ("runtimeConfig.mac", config.runtime_config.mac.as_str()),
                ("CNI_ARGS MAC", &from_args),
                ("mac", &config.mac),
            ])?,
            shim: shim(config, mode)?,
            dns: config.dns.configured(),
        })
    }
}

fn mode(text: &str) -> Result<MacVlanMode, SettingsError> {
    Ok(match text {
        "" | "bridge" => MacVlanMode::Bridge,
        "private" => MacVlanMode::Private,
        "vepa" => MacVlanMode::Vepa,
        "passthru" => MacVlanMode::Passthrough,
        other => return Err(SettingsError::Mode(other.to_owned())),
    })
}

fn bc_queue_len(length: i64) -> Result<Option<u32>, SettingsError> {
    let length = u32::try_from(length).map_err(|_| SettingsError::BcQueueLen(length))?;
    Ok((length > 0).then_some(length))
}

fn shim(config: &Config, mode: MacVlanMode) -> Result<Option<Shim>, SettingsError> {
    let Some(shim) = &config.host_shim else { return Ok(None) };
    if mode != MacVlanMode::Bridge {
        return Err(SettingsError::ShimNeeds("mode \"bridge\": in the others the kernel keeps the links apart"));
    }
    if config.link_in_container {
        return Err(SettingsError::ShimNeeds("a master of the node: remove linkInContainer"));
    }
    if config.ipam.plugin_type.is_empty() {
        return Err(SettingsError::ShimNeeds("\"ipam\": the node's routes lead to the containers' addresses"));
    }
    Ok(Some(Shim::resolve(shim)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_attach::Place;
    use serde_json::{Value, json};

    fn resolve(value: Value, args: &str) -> Result<Settings, String> {
        let config: Config = cni_plugin::json::decode(value).unwrap();
        Settings::resolve(&config, &CniArgs::new(args)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_those_of_the_go_plugin() {
        let settings = resolve(json!({}), "").unwrap();
        assert_eq!((settings.mode, settings.bc_queue_len, settings.mtu), (MacVlanMode::Bridge, None, None));
        assert_eq!((settings.parent.name, settings.parent.place), (None, Place::Node));
        assert_eq!(resolve(json!({"linkInContainer": true}), "").unwrap().parent.place, Place::Container);
    }

    #[test]
    fn bad_values_are_named_with_what_is_allowed() {
        for (conf, named) in [
            (json!({"mode": "l2"}), ["mode", "\"l2\"", "passthru"]),
            (json!({"bcqueuelen": -1}), ["bcqueuelen", "-1", "4294967295"]),
            (json!({"mac": "x"}), ["mac", "\"x\"", "hexadecimal"]),
            (json!({"mtu": 67}), ["mtu", "67", "68"]),
        ] {
            let error = resolve(conf, "").unwrap_err();
            assert!(named.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[test]
    fn the_runtime_then_the_arguments_then_the_configuration_give_the_address() {
        let mac = |conf: Value, args: &str| resolve(conf, args).unwrap().mac.map(|mac| mac.0[5]);
        let all = json!({"mac": "02:00:00:00:00:01", "runtimeConfig": {"mac": "02:00:00:00:00:03"}});
        assert_eq!(mac(all, "MAC=02:00:00:00:00:02"), Some(3));
        assert_eq!(mac(json!({"mac": "02:00:00:00:00:01"}), "MAC=02:00:00:00:00:02"), Some(2));
        assert_eq!(mac(json!({"mac": "02:00:00:00:00:01"}), ""), Some(1));
        assert_eq!(mac(json!({}), ""), None);
    }

    #[test]
    fn a_shim_needs_an_address_ipam_and_bridge_mode() {
        let shim = |extra: Value| {
            let mut conf = json!({"hostShim": {"addresses": ["192.0.2.9/24", "fd00::9"]}, "ipam": {"type": "x"}});
            conf.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            resolve(conf, "").map(|settings| settings.shim.unwrap().addresses.len())
        };
        assert_eq!(shim(json!({})), Ok(2));
        for (extra, named) in [
            (json!({"mode": "private"}), "bridge"),
            (json!({"ipam": {}}), "ipam"),
            (json!({"linkInContainer": true}), "linkInContainer"),
            (json!({"hostShim": {}}), "addresses"),
            (json!({"hostShim": {"addresses": ["x"]}}), "\"x\""),
        ] {
            let error = shim(extra).unwrap_err();
            assert!(error.contains("hostShim") && error.contains(named), "{error}");
        }
    }
}
