//! What is handed out, once every channel has had its say. The texts are those of the Go plugin where it has one.

use std::net::IpAddr;

use cni_plugin::{ArgsError, CniArgs, CniResult, IpConfig, SpecVersion, addr};
use ipnetwork::IpNetwork;

use crate::config::{AddressKeys, Config};

/// How an address has to be written.
const EXAMPLE: &str = "an address and its prefix length: 10.0.0.5/24, fd00::5/64";

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No `ipam` object.
    #[error("IPAM config missing 'ipam' key")]
    NoIpam,
    /// `CNI_ARGS`.
    #[error(transparent)]
    Args(#[from] ArgsError),
    /// An entry of `ipam.addresses` or of `IP`.
    #[error("the '{field}' field is expected to be in CIDR notation, got: '{value}' ({channel}; {EXAMPLE})")]
    Address {
        /// Where it is written.
        channel: &'static str,
        /// Its key.
        field: &'static str,
        /// The refused text.
        value: String,
    },
    /// An entry of a list that replaces the configured addresses.
    #[error("an entry in the 'ips' field is NOT in CIDR notation, got: '{value}' ({channel}; {EXAMPLE})")]
    Ips {
        /// `args.cni` or `runtimeConfig`.
        channel: &'static str,
        /// The refused text.
        value: String,
    },
    /// An entry of `GATEWAY`.
    #[error("invalid gateway address: {0} (CNI_ARGS)")]
    Gateway(String),
    /// Old results have room for one address a family.
    #[error("CNI version {0} does not support more than 1 address per family")]
    OneAddressPerFamily(SpecVersion),
}

/// A configuration without contradictions.
#[derive(Debug)]
pub struct Settings {
    /// What ADD returns.
    pub result: CniResult,
}

impl Settings {
    /// `CNI_ARGS` adds to the configured addresses; `args.cni.ips` replaces all of them, and `runtimeConfig.ips` those.
    pub fn resolve(config: &Config, args: &CniArgs, version: SpecVersion) -> Result<Self, SettingsError> {
        let ipam = config.ipam.as_ref().ok_or(SettingsError::NoIpam)?;
        let mut ips = ipam.addresses.iter().map(configured).collect::<Result<Vec<_>, _>>()?;
        add_from_args(&mut ips, args)?;
        for (channel, list) in [("args.cni", &config.args.cni.ips), ("runtimeConfig", &config.runtime_config.ips)] {
            if !list.is_empty() {
                ips = list.iter().map(|text| replacing(channel, text)).collect::<Result<_, _>>()?;
            }
        }
        let ipv4 = ips.iter().filter(|ip| ip.address.is_ipv4()).count();
        if version < SpecVersion::V0_3_0 && (ipv4 > 1 || ips.len() - ipv4 > 1) {
            return Err(SettingsError::OneAddressPerFamily(version));
        }
        Ok(Self {
            result: CniResult { ips, routes: ipam.routes.clone(), dns: ipam.dns.clone(), ..CniResult::default() },
        })
    }
}

fn ip(address: IpNetwork, gateway: Option<IpAddr>) -> IpConfig {
    IpConfig { interface: None, address, gateway }
}

fn configured(keys: &AddressKeys) -> Result<IpConfig, SettingsError> {
    let refused =
        || SettingsError::Address { channel: "ipam.addresses", field: "address", value: keys.address.clone() };
    Ok(ip(addr::parse_cidr(&keys.address).ok_or_else(refused)?, keys.gateway))
}

fn replacing(channel: &'static str, text: &str) -> Result<IpConfig, SettingsError> {
    let refused = || SettingsError::Ips { channel, value: text.to_owned() };
    Ok(ip(addr::parse_cidr(text).ok_or_else(refused)?, None))
}

/// `IP` adds addresses; `GATEWAY` names the gateway of those, and of the configured ones that have none, in whose subnet
/// it is.
fn add_from_args(ips: &mut Vec<IpConfig>, args: &CniArgs) -> Result<(), SettingsError> {
    let values = args.parse(&["IP", "GATEWAY"])?;
    for text in items(values.get("IP")) {
        let refused = || SettingsError::Address { channel: "CNI_ARGS", field: "ip", value: text.to_owned() };
        ips.push(ip(addr::parse_cidr(text).ok_or_else(refused)?, None));
    }
    for text in items(values.get("GATEWAY")) {
        let gateway = addr::parse_ip(text).ok_or_else(|| SettingsError::Gateway(text.to_owned()))?;
        for ip in ips.iter_mut().filter(|ip| ip.gateway.is_none() && ip.address.contains(gateway)) {
            ip.gateway = Some(gateway);
        }
    }
    Ok(())
}

fn items(list: Option<&String>) -> impl Iterator<Item = &str> {
    list.filter(|list| !list.is_empty()).into_iter().flat_map(|list| list.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn resolve(config: Value, args: &str, version: SpecVersion) -> Result<Vec<String>, String> {
        let config = cni_plugin::json::decode(config).map_err(|error| error.to_string())?;
        let settings = Settings::resolve(&config, &CniArgs::new(args), version);
        let settings = settings.map_err(|error| error.to_string())?;
        let shown = |ip: IpConfig| match ip.gateway {
            Some(gateway) => format!("{} via {gateway}", ip.address),
            None => ip.address.to_string(),
        };
        Ok(settings.result.ips.into_iter().map(shown).collect())
    }

    fn newest(config: Value, args: &str) -> Result<Vec<String>, String> {
        resolve(config, args, SpecVersion::NEWEST)
    }

    fn two() -> Value {
        json!({"ipam": {"addresses": [{"address": "10.0.0.5/24", "gateway": "10.0.0.1"}, {"address": "fd00::5/64"}]}})
    }

    #[test]
    fn addresses_keep_their_host_bits_and_gateways() {
        assert_eq!(newest(two(), "").unwrap(), ["10.0.0.5/24 via 10.0.0.1", "fd00::5/64"]);
        assert!(newest(json!({"ipam": {}}), "").unwrap().is_empty());
    }

    #[test]
    fn cni_args_add_and_name_gateways_of_all() {
        let ips = newest(two(), "IP=10.1.0.5/24, 10.1.0.6/24;GATEWAY=10.1.0.1,fd00::1,10.0.0.2").unwrap();
        assert_eq!(
            ips,
            [
                "10.0.0.5/24 via 10.0.0.1",
                "fd00::5/64 via fd00::1",
                "10.1.0.5/24 via 10.1.0.1",
                "10.1.0.6/24 via 10.1.0.1"
            ]
        );
    }

    #[test]
    fn args_replace_all_and_the_runtime_replaces_them() {
        let mut config = two();
        config["args"] = json!({"cni": {"ips": ["10.2.0.5/24"]}});
        assert_eq!(newest(config.clone(), "IP=10.1.0.5/24").unwrap(), ["10.2.0.5/24"]);
        config["runtimeConfig"] = json!({"ips": ["10.3.0.5/24", "fd03::5/64"]});
        assert_eq!(newest(config, "").unwrap(), ["10.3.0.5/24", "fd03::5/64"]);
    }

    #[test]
    fn refusals_name_channel_and_value() {
        let refused = |config: Value, args: &str, parts: &[&str]| {
            let error = newest(config, args).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        refused(json!({}), "", &["missing 'ipam' key"]);
        let address = |text: &str| json!({"ipam": {"addresses": [{"address": text}]}});
        for bad in ["10.0.0.5", "", "10.0.0.5/33", "x/8"] {
            refused(address(bad), "", &["ipam.addresses", "expected to be in CIDR notation", bad]);
        }
        refused(two(), "IP=10.0.0.9", &["CNI_ARGS", "expected to be in CIDR notation", "10.0.0.9"]);
        refused(two(), "GATEWAY=10.0.0", &["invalid gateway address: 10.0.0"]);
        refused(two(), "FOO=1", &["FOO=1"]);
        refused(
            json!({"ipam": {}, "args": {"cni": {"ips": ["1.2.3.4"]}}}),
            "",
            &["args.cni", "NOT in CIDR", "1.2.3.4"],
        );
        refused(json!({"ipam": {}, "runtimeConfig": {"ips": ["x"]}}), "", &["runtimeConfig", "NOT in CIDR", "'x'"]);
        refused(
            json!({"ipam": {"addresses": [{"address": "10.0.0.5/24", "gateway": "x"}]}}),
            "",
            &["gateway", "\"x\""],
        );
        refused(json!({"ipam": {"routes": [{"dst": "10.0.0.0"}]}}), "", &["ipam.routes[0].dst", "10.0.0.0"]);
    }

    #[test]
    fn old_versions_have_one_address_a_family() {
        assert!(resolve(two(), "", SpecVersion::V0_2_0).is_ok());
        let error = resolve(two(), "IP=10.1.0.5/24", SpecVersion::V0_2_0).unwrap_err();
        assert!(error.contains("0.2.0 does not support more than 1 address"), "{error}");
    }
}
