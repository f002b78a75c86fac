//! The resolved configuration: contradictory options are refused here, and the verbs use nothing else.

use std::net::IpAddr;
use std::path::PathBuf;

use cni_net::{IPV6_MIN_MTU, VxLan, unusable_host};
use cni_plugin::{IfName, NameError, NetworkName};

use crate::config::Config;

/// Where the peers are listed unless the configuration says it.
const PEERS_DIR: &str = "/etc/cni/peers";
/// What the kernel takes (`ETH_MIN_MTU` and `ETH_MAX_MTU` in `include/uapi/linux/if_ether.h`).
pub const MTU_MIN: u32 = 68;
const MTU_MAX: u32 = 65535;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No number.
    #[error("vni: it is missing: the VXLAN's number, 1 to {max}, the same on all hosts, is expected", max = VxLan::VNI_MAX)]
    NoVni,
    /// A number that doesn't fit 24 bits, or that is no network's.
    #[error("vni: {0} is out of range: 1 to {max} are expected", max = VxLan::VNI_MAX)]
    Vni(i64),
    /// No port.
    #[error("port: {0} is out of range: a UDP port from 1 to 65535 is expected, or none for {default}", default = VxLan::PORT)]
    Port(i64),
    /// Two things say it.
    #[error("dev: {dev:?} and local: {local:?}: one of them is expected, not both")]
    TwoUnderlays {
        /// As configured.
        dev: String,
        /// As configured.
        local: String,
    },
    /// No link can have this name.
    #[error("dev: {0}")]
    Dev(#[from] NameError),
    /// No host can have this address.
    #[error("local: {text:?} is not an address of this node: {why}")]
    Local {
        /// As configured.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// A path that means another file in each working directory.
    #[error("peers: {0:?} is not an absolute path: one like {PEERS_DIR}/NETWORK is expected, which is the default")]
    Peers(String),
    /// No link can have it.
    #[error(
        "mtu: {0} is out of range: {MTU_MIN} to {MTU_MAX}, or 0 for what fits the underlay; IPv6 needs {IPV6_MIN_MTU}"
    )]
    Mtu(i64),
}

/// Where the peers are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// By the link of the default route.
    DefaultRoute,
    /// By this link.
    Dev(IfName),
    /// From this address of the node, by whatever link the routes say.
    Local(IpAddr),
}

/// A configuration without contradictions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The VXLAN's number.
    pub vni: u32,
    /// The UDP port.
    pub port: u16,
    /// Where the peers are reached.
    pub reach: Reach,
    /// The file that lists the peers.
    pub peers: PathBuf,
    /// The configured MTU.
    pub mtu: Option<u32>,
}

impl Settings {
    /// Resolves the configuration, and refuses options that can't be carried out before anything is changed.
    pub fn resolve(config: &Config, network: &NetworkName) -> Result<Self, SettingsError> {
        let peers = match config.peers.as_str() {
            "" => PathBuf::from(PEERS_DIR).join(network.as_str()),
            path if path.starts_with('/') && !path.contains('\0') => PathBuf::from(path),
            other => return Err(SettingsError::Peers(other.to_owned())),
        };
        Ok(Self { vni: vni(config)?, port: port(config)?, reach: reach(config)?, peers, mtu: mtu(config)? })
    }
}

/// The VXLAN's number.
pub fn vni(config: &Config) -> Result<u32, SettingsError> {
    let vni = config.vni.ok_or(SettingsError::NoVni)?;
    let found = u32::try_from(vni).ok().filter(|vni| (1..=VxLan::VNI_MAX).contains(vni));
    found.ok_or(SettingsError::Vni(vni))
}

fn port(config: &Config) -> Result<u16, SettingsError> {
    let Some(port) = config.port else { return Ok(VxLan::PORT) };
    u16::try_from(port).ok().filter(|port| *port > 0).ok_or(SettingsError::Port(port))
}

fn reach(config: &Config) -> Result<Reach, SettingsError> {
    let (dev, local) = (&config.dev, &config.local);
    match (dev.is_empty(), local.is_empty()) {
        (true, true) => Ok(Reach::DefaultRoute),
        (false, false) => Err(SettingsError::TwoUnderlays { dev: dev.clone(), local: local.clone() }),
        (false, true) => Ok(Reach::Dev(dev.parse()?)),
        (true, false) => {
            let refused = |why: String| SettingsError::Local { text: local.clone(), why };
            let address = local
                .parse()
                .map_err(|_| refused("an IPv4 or IPv6 address without a prefix is expected".to_owned()))?;
            match unusable_host(address) {
                Some(why) => Err(refused(why.to_owned())),
                None => Ok(Reach::Local(address)),
            }
        }
    }
}

fn mtu(config: &Config) -> Result<Option<u32>, SettingsError> {
    let mtu = u32::try_from(config.mtu).map_err(|_| SettingsError::Mtu(config.mtu))?;
    match mtu {
        0 => Ok(None),
        MTU_MIN..=MTU_MAX => Ok(Some(mtu)),
        _ => Err(SettingsError::Mtu(config.mtu)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn resolve(config: Value) -> Result<Settings, String> {
        let config: Config = cni_plugin::json::decode(config).map_err(|error| error.to_string())?;
        Settings::resolve(&config, &"blue".parse().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults() {
        let settings = resolve(json!({"vni": 42, "dev": "eth0"})).unwrap();
        assert_eq!((settings.port, settings.mtu), (4789, None));
        assert_eq!(resolve(json!({"vni": 42})).unwrap().reach, Reach::DefaultRoute);
        assert_eq!(settings.peers, PathBuf::from("/etc/cni/peers/blue"));
        let settings = resolve(json!({"VNI": 42, "local": "2001:db8::1", "peers": "/p", "mtu": 1400})).unwrap();
        assert_eq!(settings.reach, Reach::Local("2001:db8::1".parse().unwrap()));
        assert_eq!((settings.peers, settings.mtu), (PathBuf::from("/p"), Some(1400)));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_allowed() {
        for (config, parts) in [
            (json!({"dev": "eth0"}), &["vni", "16777215"][..]),
            (json!({"vni": 0, "dev": "eth0"}), &["vni: 0", "16777215"]),
            (json!({"vni": 16_777_216, "dev": "eth0"}), &["vni: 16777216", "1 to 16777215"]),
            (json!({"vni": "42", "dev": "eth0"}), &["vni", "42"]),
            (json!({"vni": 1, "dev": "eth0", "port": 0}), &["port: 0", "1 to 65535", "4789"]),
            (json!({"vni": 1, "dev": "eth0", "port": 65536}), &["port: 65536"]),
            (json!({"vni": 1, "dev": "eth0", "local": "192.0.2.1"}), &["eth0", "192.0.2.1", "not both"]),
            (json!({"vni": 1, "dev": "eth/0"}), &["dev", "eth/0"]),
            (json!({"vni": 1, "local": "192.0.2.1/24"}), &["local", "192.0.2.1/24", "without a prefix"]),
            (json!({"vni": 1, "local": "127.0.0.1"}), &["local", "127.0.0.1", "loopback"]),
            (json!({"vni": 1, "dev": "eth0", "peers": "peers"}), &["peers", "absolute"]),
            (json!({"vni": 1, "dev": "eth0", "mtu": 67}), &["mtu: 67", "68 to 65535"]),
            (json!({"vni": 1, "dev": "eth0", "mtu": -1}), &["mtu: -1"]),
        ] {
            let refused = resolve(config.clone()).unwrap_err();
            assert!(parts.iter().all(|part| refused.contains(part)), "{config}: {refused}");
        }
    }
}
