//! The resolved configuration: contradictory options are refused here, and the verbs use nothing else.

use crate::config::{Config, Limits};

/// Bursts, in bits, that runtimes send where none is configured: dockershim's `MaxInt32`, containerd's `MaxUint32` and CRI-O's
/// `MaxUint32 * 8 - 1`. Taken literally they let gigabytes through before any limit.
const UNSET_BURSTS: [u64; 4] = [0, 0x7fff_ffff, 0xffff_ffff, 0xffff_ffff * 8 - 1];

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A rate that is less than a byte a second.
    #[error("{direction}Rate: {rate} is out of range: at least 8 bits a second are expected, and 0 is no limit")]
    Rate {
        /// `ingress` or `egress`.
        direction: &'static str,
        /// In bits a second.
        rate: u64,
    },
    /// A burst of nothing.
    #[error("{direction}Burst: {burst} without {direction}Rate: if burst is set, rate must also be set")]
    BurstAlone {
        /// `ingress` or `egress`.
        direction: &'static str,
        /// In bits.
        burst: u64,
    },
    /// A burst that the kernel has no room for, or that is less than a byte.
    #[error(
        "{direction}Burst: {burst} is out of range: 8 to 34359738359 bits are expected (burst cannot be more than 4GB), \
         and 0 or no burst lets the plugin choose one"
    )]
    Burst {
        /// `ingress` or `egress`.
        direction: &'static str,
        /// In bits.
        burst: u64,
    },
    /// A device that there isn't.
    #[error("egressDevice: {0:?} is unknown: \"ifb\" (the default) or \"container\" is expected")]
    Device(String),
}

/// A configuration without contradictions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// What the container may receive.
    pub ingress: Option<Limit>,
    /// What the container may send.
    pub egress: Option<Limit>,
    /// Where its sending is limited.
    pub device: EgressDevice,
    /// Keys that are there and mean nothing any more.
    pub ignored: Vec<&'static str>,
}

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// In bits a second.
    pub rate: u64,
    /// What may pass at once, in bits, as it is configured.
    pub burst: u64,
}

impl Limit {
    /// The configured burst; the plan chooses one where there is none.
    pub fn wanted_burst(&self) -> Option<u64> {
        Some(self.burst).filter(|burst| !UNSET_BURSTS.contains(burst))
    }
}

/// Where the container's sending is limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EgressDevice {
    /// In an ifb on the node.
    #[default]
    Ifb,
    /// On the container's own interface, where a container with `CAP_NET_ADMIN` can take the limit away.
    Container,
}

impl Settings {
    /// True if there is nothing to limit.
    pub fn is_empty(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }

    /// Resolves the configuration, and refuses options that can't be carried out before anything is changed. If one of the limits at
    /// the top is set, those of the runtime are ignored, as in the Go plugin.
    pub fn resolve(config: &Config) -> Result<Self, SettingsError> {
        let top = config.limits();
        let is_set = top != Limits::default();
        let limits = if is_set { top } else { config.runtime_config.bandwidth.unwrap_or_default() };
        let device = match config.egress_device.as_deref() {
            None | Some("" | "ifb") => EgressDevice::Ifb,
            Some("container") => EgressDevice::Container,
            Some(other) => return Err(SettingsError::Device(other.to_owned())),
        };
        let subnets = [("shapedSubnets", &config.shaped_subnets), ("unshapedSubnets", &config.unshaped_subnets)];
        Ok(Self {
            ingress: limit("ingress", limits.ingress_rate, limits.ingress_burst)?,
            egress: limit("egress", limits.egress_rate, limits.egress_burst)?,
            device,
            ignored: subnets.into_iter().filter(|(_, list)| !list.is_empty()).map(|(key, _)| key).collect(),
        })
    }
}

fn limit(direction: &'static str, rate: Option<u64>, burst: Option<u64>) -> Result<Option<Limit>, SettingsError> {
    let (rate, burst) = (rate.unwrap_or(0), burst.unwrap_or(0));
    let burst_bytes = burst / 8;
    match (rate, burst) {
        (0, 0) => Ok(None),
        (0, _) => Err(SettingsError::BurstAlone { direction, burst }),
        (1..8, _) => Err(SettingsError::Rate { direction, rate }),
        _ if UNSET_BURSTS.contains(&burst) => Ok(Some(Limit { rate, burst })),
        _ if burst_bytes == 0 || burst_bytes >= u32::MAX.into() => Err(SettingsError::Burst { direction, burst }),
        _ => Ok(Some(Limit { rate, burst })),
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
    fn no_limit_is_nothing_to_do() {
        for nothing in
            [json!({}), json!({"ingressRate": 0, "egressBurst": 0}), json!({"runtimeConfig": {"bandwidth": {}}})]
        {
            assert!(resolve(nothing).unwrap().is_empty());
        }
    }

    #[test]
    fn the_configuration_goes_over_the_runtime_as_a_whole() {
        let runtime = json!({"bandwidth": {"IngressRate": 1000, "ingressBurst": 2000, "egressRate": 3000}});
        let settings = resolve(json!({"runtimeConfig": runtime})).unwrap();
        assert_eq!(settings.ingress, Some(Limit { rate: 1000, burst: 2000 }));
        assert_eq!(settings.egress, Some(Limit { rate: 3000, burst: 0 }));
        let settings = resolve(json!({"runtimeConfig": runtime, "egressRate": 8000, "egressBurst": 8000})).unwrap();
        assert_eq!((settings.ingress, settings.egress), (None, Some(Limit { rate: 8000, burst: 8000 })));
    }

    #[test]
    fn bursts_that_runtimes_send_for_none_are_none() {
        for burst in [2_147_483_647_u64, 4_294_967_295, 34_359_738_359] {
            let settings = resolve(json!({"ingressRate": 8000, "ingressBurst": burst})).unwrap();
            assert_eq!(settings.ingress.unwrap().wanted_burst(), None, "{burst}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (config, parts) in [
            (json!({"ingressBurst": 80}), &["ingressBurst: 80", "rate must also be set"][..]),
            (json!({"egressRate": 7, "egressBurst": 80}), &["egressRate: 7"]),
            (json!({"egressRate": 80, "egressBurst": 34_359_738_360_u64}), &["egressBurst: 34359738360", "4GB"]),
            (json!({"egressRate": 80, "egressBurst": 7}), &["egressBurst: 7"]),
            (json!({"ingressRate": -1}), &["ingressRate", "-1"]),
            (json!({"ingressRate": "10M"}), &["ingressRate", "10M"]),
            (json!({"runtimeConfig": {"bandwidth": {"egressRate": 1.5}}}), &["runtimeConfig.bandwidth.egressRate"]),
            (json!({"egressDevice": "eth0"}), &["egressDevice", "eth0", "container"]),
        ] {
            let refused = resolve(config).unwrap_err();
            assert!(parts.iter().all(|part| refused.contains(part)), "{refused}");
        }
    }
}
