//! The resolved configuration: contradictory options are refused here, and the verbs use nothing else.

use std::path::{Component, Path, PathBuf};

use cni_plugin::{Dns, MacAddr, NameError};

use crate::config::Config;

/// Below it the kernel has a directory for each device.
const DEVICES: &str = "/sys/devices";

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Nothing says which device.
    #[error(
        "specify either \"device\", \"hwaddr\", \"kernelpath\" or \"pciBusID\", or have the runtime give a device ID \
         (\"capabilities\": {{\"deviceID\": true}})"
    )]
    NoDevice,
    /// `hwaddr`.
    #[error("hwaddr: {0}")]
    Mac(#[from] NameError),
    /// `kernelpath`.
    #[error("kernelpath: kernel device path {0:?} must be absolute and begin with {DEVICES}/, without \"..\"")]
    KernelPath(PathBuf),
    /// `pciBusID`, `runtimeConfig.deviceID`.
    #[error("{key}: {value:?} is no name of a device on a bus, such as 0000:00:1f.6")]
    BusId {
        /// The key.
        key: &'static str,
        /// As configured.
        value: String,
    },
}

/// Which device of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// By its name or an alternative name.
    Name(String),
    /// By its hardware address.
    Mac(MacAddr),
    /// By its directory below `/sys/devices`.
    KernelPath(PathBuf),
    /// By its address on the PCI bus.
    Pci(String),
    /// By its name on the PCI bus, or else on the auxiliary bus.
    DeviceId(String),
}

/// A configuration without contradictions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Which device.
    pub device: Selector,
    /// Its name on a bus, if one is given: whatever selects the link, a driver of user space may have this.
    pub bus_id: Option<String>,
    /// Replaces what IPAM says.
    pub dns: Option<Dns>,
}

impl Settings {
    /// Resolves the configuration, and refuses options that can't be carried out before anything is changed.
    pub fn resolve(config: &Config) -> Result<Self, SettingsError> {
        let pci = bus_id("pciBusID", &config.pci_bus_id)?;
        let device_id = bus_id("runtimeConfig.deviceID", &config.runtime_config.device_id)?;
        let device = if !config.device.is_empty() {
            Selector::Name(config.device.clone())
        } else if !config.hwaddr.is_empty() {
            Selector::Mac(config.hwaddr.parse()?)
        } else if !config.kernelpath.is_empty() {
            Selector::KernelPath(kernel_path(&config.kernelpath)?)
        } else if let Some(id) = &device_id {
            Selector::DeviceId(id.clone())
        } else if let Some(id) = &pci {
            Selector::Pci(id.clone())
        } else {
            return Err(SettingsError::NoDevice);
        };
        Ok(Self { device, bus_id: device_id.or(pci), dns: config.dns.configured() })
    }
}

/// A name on a bus is one element of a path.
fn bus_id(key: &'static str, value: &str) -> Result<Option<String>, SettingsError> {
    match value {
        "" => Ok(None),
        "." | ".." => Err(SettingsError::BusId { key, value: value.to_owned() }),
        _ if value.contains(['/', '\0']) => Err(SettingsError::BusId { key, value: value.to_owned() }),
        _ => Ok(Some(value.to_owned())),
    }
}

fn kernel_path(text: &str) -> Result<PathBuf, SettingsError> {
    let path = Path::new(text);
    let is_plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if path.starts_with(DEVICES) && path != Path::new(DEVICES) && is_plain && !text.contains('\0') {
        return Ok(path.to_owned());
    }
    Err(SettingsError::KernelPath(path.to_owned()))
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
    fn the_first_key_that_is_given_selects_the_device() {
        let all = json!({"device": "eth1", "hwaddr": "02:00:00:00:00:01", "kernelpath": "/sys/devices/pci/x",
            "pciBusID": "0000:00:1f.6", "runtimeConfig": {"deviceID": "0000:00:02.0"}});
        let expected = [
            ("device", Selector::Name("eth1".into())),
            ("hwaddr", Selector::Mac("02:00:00:00:00:01".parse().unwrap())),
            ("kernelpath", Selector::KernelPath("/sys/devices/pci/x".into())),
            // As in the Go plugin the runtime's replaces the configured one.
            ("runtimeConfig", Selector::DeviceId("0000:00:02.0".into())),
            ("pciBusID", Selector::Pci("0000:00:1f.6".into())),
        ];
        let mut conf = all;
        for (key, selector) in expected {
            assert_eq!(resolve(conf.clone()).unwrap().device, selector, "{key}");
            conf.as_object_mut().unwrap().remove(key);
        }
        assert!(resolve(conf).unwrap_err().starts_with("specify either"));
    }

    #[test]
    fn bad_values_are_named() {
        for (key, bad) in [
            ("hwaddr", "02:00"),
            ("kernelpath", "/etc"),
            ("kernelpath", "/sys/devices"),
            ("kernelpath", "/sys/devices/../class/net"),
            ("pciBusID", "../x"),
            ("pciBusID", ".."),
        ] {
            let error = resolve(json!({key: bad})).unwrap_err();
            assert!(error.starts_with(key) && error.contains(bad), "{error}");
        }
    }
}
