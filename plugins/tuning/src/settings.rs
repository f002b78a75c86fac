//! The resolved configuration: contradictory options are refused here, and the verbs use nothing else.

use std::collections::BTreeMap;

use cni_plugin::{ArgsError, CniArgs, MacAddr, NameError, Request};

use crate::config::Config;

/// Why a configuration is refused. The texts are those of the Go plugin where it has one.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// `CNI_ARGS`.
    #[error(transparent)]
    Args(#[from] ArgsError),
    /// A sysctl that is there twice; which value is meant?
    #[error("duplicated sysctl keys are not allowed: {0:?} is there twice")]
    Duplicate(String),
    /// A sysctl that is there in two spellings.
    #[error("duplicated sysctl keys are not allowed: {0:?} and {1:?} are the same sysctl")]
    SameSysctl(String, String),
    /// A name that doesn't stay below `net/`.
    #[error("invalid net sysctl key: {0:?}: a name below \"net.\" without empty, '.' and '..' parts is expected")]
    Sysctl(String),
    /// The interface's hardware address.
    #[error("invalid args for MAC addr: {channel}: {source}")]
    Mac {
        /// Where it comes from.
        channel: &'static str,
        /// The rule that it breaks.
        source: NameError,
    },
    /// A number that no kind of link takes; the kernel knows the range of this one.
    #[error("mtu: {0} is out of range: expected 1 to 4294967295, or 0 to leave it unchanged")]
    Mtu(i64),
}

/// A configuration without contradictions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// By their path below `/proc/sys`, with `IFNAME` still in it.
    pub sysctls: BTreeMap<String, Sysctl>,
    /// The interface's hardware address.
    pub mac: Option<MacAddr>,
    /// In bytes.
    pub mtu: Option<u32>,
    /// It receives every frame.
    pub promisc: bool,
    /// It receives every multicast frame.
    pub all_multicast: Option<bool>,
    /// Length of the transmit queue, in packets.
    pub tx_queue: Option<u32>,
}

/// A sysctl to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// As it is configured; the allow list looks at this.
    pub key: String,
    /// The value.
    pub value: String,
}

impl Settings {
    /// Resolves the configuration, and refuses options that can't be carried out before anything is changed.
    pub fn resolve(request: &Request<Config>, args: &CniArgs) -> Result<Self, SettingsError> {
        for path in [&["sysctl"][..], &["args", "cni", "sysctl"]] {
            if let Some(key) = request.duplicate_key(path) {
                return Err(SettingsError::Duplicate(key));
            }
        }
        Self::of(&request.config, args)
    }

    /// True if there is nothing to set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `args.cni` overrides everything else, key by key; the other channels have a hardware address only.
    pub(crate) fn of(config: &Config, args: &CniArgs) -> Result<Self, SettingsError> {
        let nearest = &config.args.cni;
        let from_args = args.parse(&["MAC"])?.remove("MAC");
        let mac = [
            ("args.cni.mac", nearest.mac.as_deref()),
            ("runtimeConfig.mac", given(&config.runtime_config.mac)),
            ("CNI_ARGS MAC", from_args.as_deref().and_then(given)),
            ("mac", config.mac.as_deref()),
        ];
        let mtu = nearest.mtu.or(config.mtu).unwrap_or(0);
        let mut sysctl = config.sysctl.clone();
        sysctl.extend(nearest.sysctl.clone());
        Ok(Self {
            sysctls: sysctls(sysctl)?,
            mac: parse_mac(mac)?,
            mtu: Some(u32::try_from(mtu).map_err(|_| SettingsError::Mtu(mtu))?).filter(|mtu| *mtu > 0),
            promisc: nearest.promisc.or(config.promisc).unwrap_or(false),
            all_multicast: nearest.allmulti.or(config.allmulti),
            tx_queue: nearest.tx_q_len.or(config.tx_q_len),
        })
    }
}

fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// The first channel that has an address; an empty one there leaves the interface's as it is.
fn parse_mac(channels: [(&'static str, Option<&str>); 4]) -> Result<Option<MacAddr>, SettingsError> {
    let mut said = channels.into_iter().filter_map(|(channel, text)| Some((channel, text?)));
    let Some((channel, text)) = said.next().filter(|(_, text)| !text.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|source| SettingsError::Mac { channel, source })
}

fn sysctls(configured: BTreeMap<String, String>) -> Result<BTreeMap<String, Sysctl>, SettingsError> {
    let mut sysctls = BTreeMap::new();
    for (key, value) in configured {
        let path = path(&key).ok_or_else(|| SettingsError::Sysctl(key.clone()))?;
        if let Some(Sysctl { key: other, .. }) = sysctls.insert(path, Sysctl { key: key.clone(), value }) {
            return Err(SettingsError::SameSysctl(other, key));
        }
    }
    Ok(sysctls)
}

/// The sysctl's path below `/proc/sys`: `.` and `/` both part it, as in the Go plugin. `None` if it leaves `net/`.
fn path(key: &str) -> Option<String> {
    let path = key.replace('.', "/");
    let mut parts = path.split('/');
    // Dots are gone, so "." and ".." show up as empty parts.
    let below_net = parts.next() == Some("net") && parts.clone().next().is_some() && parts.all(|part| !part.is_empty());
    (below_net && !path.contains('\0')).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn resolve(config: Value, args: &str) -> Result<Settings, String> {
        let config = cni_plugin::json::decode(config).map_err(|error| error.to_string())?;
        Settings::of(&config, &CniArgs::new(args)).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_asked_is_nothing_to_do() {
        let nothing = resolve(json!({"promisc": false, "mtu": 0, "mac": "", "sysctl": null}), "").unwrap();
        assert_eq!((nothing.mac, nothing.mtu, nothing.promisc, nothing.all_multicast), (None, None, false, None));
        assert!(nothing.sysctls.is_empty() && nothing.tx_queue.is_none());
    }

    #[test]
    fn args_go_over_the_configuration_even_if_it_has_no_such_object() {
        let args = json!({"sysctl": {"net.core.somaxconn": "5"}, "mtu": 1400, "promisc": true, "allmulti": false, "txQLen": 7});
        let settings = resolve(json!({"args": {"cni": args}, "mtu": 1300, "allmulti": true}), "").unwrap();
        assert_eq!(settings.sysctls["net/core/somaxconn"].value, "5");
        assert_eq!((settings.mtu, settings.all_multicast, settings.tx_queue), (Some(1400), Some(false), Some(7)));
        assert!(settings.promisc);
        let both = json!({"sysctl": {"net.a": "1", "net.b": "1"}, "args": {"cni": {"sysctl": {"net.a": "2"}}}});
        let settings = resolve(both, "").unwrap();
        assert_eq!((settings.sysctls["net/a"].value.as_str(), settings.sysctls["net/b"].value.as_str()), ("2", "1"));
    }

    #[test]
    fn the_mac_comes_from_args_then_the_runtime_then_cni_args_then_the_configuration() {
        let mac = |last: u8| format!("02:00:00:00:00:0{last}");
        let mut config = json!({"mac": mac(1)});
        let last = |config: &Value, args: &str| resolve(config.clone(), args).unwrap().mac.unwrap().0[5];
        assert_eq!(last(&config, ""), 1);
        let args = format!("MAC={}", mac(2));
        assert_eq!(last(&config, &args), 2);
        config["runtimeConfig"] = json!({"mac": mac(3)});
        assert_eq!(last(&config, &args), 3);
        config["args"] = json!({"cni": {"mac": mac(4)}});
        assert_eq!(last(&config, &args), 4);
    }

    #[test]
    fn sysctls_never_leave_net() {
        for bad in [
            "",
            "net",
            "net.",
            "net/",
            "kernel.hostname",
            "/net/ipv4/ip_forward",
            "/proc/sys/net/ipv4/ip_forward",
            "net//ipv4/ip_forward",
            "net..ipv4.ip_forward",
            "net/../kernel/hostname",
            "net/./ipv4/ip_forward",
            "../net/ipv4/ip_forward",
            "net/ipv4/../../kernel/hostname",
            "netfoo.x",
            "net/ipv4/ip_forward\0",
            ".net.x",
        ] {
            let refused = resolve(json!({"sysctl": {bad: "1"}}), "").unwrap_err();
            assert!(refused.contains("invalid net sysctl key") && refused.contains(&format!("{bad:?}")), "{refused}");
        }
        let settings = resolve(json!({"sysctl": {"net/ipv4.conf/IFNAME.arp_filter": "1"}}), "").unwrap();
        assert!(settings.sysctls.contains_key("net/ipv4/conf/IFNAME/arp_filter"));
    }

    #[test]
    fn contradictions_and_bad_values_are_named() {
        let refused = resolve(json!({"sysctl": {"net.a": "1", "net/a": "1"}}), "").unwrap_err();
        assert!(refused.contains("\"net.a\"") && refused.contains("\"net/a\""), "{refused}");
        for (config, part) in [
            (json!({"mtu": -1}), "mtu: -1"),
            (json!({"mtu": "1"}), "mtu: "),
            (json!({"txQLen": -5}), "txQLen: "),
            (json!({"sysctl": {"net.a": 1}}), "sysctl.net.a: "),
            (json!({"mac": "00:11"}), "mac: MAC address \"00:11\""),
            (json!({"runtimeConfig": {"mac": "x"}}), "runtimeConfig.mac"),
        ] {
            let refused = resolve(config, "").unwrap_err();
            assert!(refused.contains(part), "{refused}");
        }
        assert!(resolve(json!({}), "FOO=1").is_err());
    }
}
