//! The container's hardware address, by the channel that it comes through.

use cni_net::mac;
use cni_plugin::{ArgsError, CniArgs, MacAddr, NameError};

use crate::config::Config;

/// Why an address is refused.
#[derive(Debug, thiserror::Error)]
pub enum MacError {
    /// `CNI_ARGS`.
    #[error(transparent)]
    Args(#[from] ArgsError),
    /// It is none.
    #[error("{channel}: {source}")]
    Malformed {
        /// `runtimeConfig.mac`, `args.cni.mac` or `CNI_ARGS MAC`.
        channel: &'static str,
        /// The rule that it breaks.
        source: NameError,
    },
    /// No interface can have it.
    #[error("{channel}: MAC address {mac} can't be an interface's: {why}; 02:00:00:00:00:01 would do")]
    Unusable {
        /// As above.
        channel: &'static str,
        /// The address.
        mac: MacAddr,
        /// The rule that it breaks.
        why: &'static str,
    },
}

/// The nearest to the container wins: the runtime's capability, then `args`, then `CNI_ARGS`.
pub fn of_container(config: &Config, args: &CniArgs) -> Result<Option<MacAddr>, MacError> {
    let from_args = args.parse(&["MAC"])?.remove("MAC").unwrap_or_default();
    let channels = [
        ("runtimeConfig.mac", &config.runtime_config.mac),
        ("args.cni.mac", &config.args.cni.mac),
        ("CNI_ARGS MAC", &from_args),
    ];
    let Some((channel, text)) = channels.into_iter().find(|(_, text)| !text.is_empty()) else { return Ok(None) };
    let mac: MacAddr = text.parse().map_err(|source| MacError::Malformed { channel, source })?;
    match mac::unusable(mac) {
        Some(why) => Err(MacError::Unusable { channel, mac, why }),
        None => Ok(Some(mac)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(value: serde_json::Value) -> Result<Option<MacAddr>, String> {
        let config: Config = cni_plugin::json::decode(value).unwrap();
        of_container(&config, &CniArgs::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_nearest_to_the_container_wins() {
        let value =
            json!({"runtimeConfig": {"mac": "02:00:00:00:00:01"}, "args": {"cni": {"mac": "02:00:00:00:00:02"}}});
        assert_eq!(of(value).unwrap().unwrap().to_string(), "02:00:00:00:00:01");
        assert_eq!(of(json!({})).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_an_address_is_named_with_its_channel() {
        for (mac, named) in [("x", "\"x\""), ("01:00:5e:00:00:01", "multicast"), ("00:00:00:00:00:00", "zero")] {
            let error = of(json!({"args": {"cni": {"mac": mac}}})).unwrap_err();
            assert!(error.starts_with("args.cni.mac: ") && error.contains(mac) && error.contains(named), "{error}");
        }
    }
}
