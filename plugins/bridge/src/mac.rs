//! The container's hardware address, by the channel that it comes through.

use cni_net::{Netlink, mac, pair};
use cni_plugin::{ArgsError, CniArgs, MacAddr, NameError};

use crate::config::Config;
use crate::host::{BridgeLink, HostError};
use crate::settings::Settings;

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

/// Refuses an address that another link on the bridge has: its packets and the container's would get mixed up. Of neighbours
/// the bridge knows those that it has seen packets from in the last five minutes.
pub fn refuse_taken(socket: &Netlink, settings: &Settings, bridge: &BridgeLink) -> Result<(), HostError> {
    let Some(mac) = settings.mac else { return Ok(()) };
    let taken = |holder: String| Err(HostError::MacTaken { mac, holder });
    if mac == bridge.mac {
        return taken(format!("bridge {}", bridge.name));
    }
    let vlan = settings.vlans.as_ref().and_then(|vlans| vlans.access);
    let Some(found) = socket.fdb_entry(bridge.index, mac, vlan)? else { return Ok(()) };
    let Some(link) = socket.link_by_index(found.link)? else { return Ok(()) };
    if found.is_own {
        return taken(format!("link {}", link.name));
    }
    // Another port may lead to a machine that has moved here since.
    if pair::is_of_attachment(&link) {
        return taken(format!("the container behind {} ({})", link.name, link.alias.unwrap_or_default()));
    }
    Ok(())
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
