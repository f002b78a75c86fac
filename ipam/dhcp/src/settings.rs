//! The resolved configuration: contradictory options are refused here, and the verbs use nothing else.

use std::path::{Path, PathBuf};

use cni_plugin::{CniArgs, Owner};

use crate::config::Config;
use crate::wire::Options;

/// Where the Go plugins' daemon listens too.
pub const SOCKET: &str = "/run/cni/dhcp.sock";

/// The options of DHCPv4 that have names here, those of the Go plugin; all others go by number (RFC 2132).
const NAMES: [(&str, u8); 6] = [
    ("subnet-mask", 1),
    ("routers", 3),
    ("host-name", 12),
    ("vendor-class-identifier", 60),
    ("dhcp-client-identifier", 61),
    ("user-class", 77),
];
/// What the server is asked for by default: the subnet mask and the routers.
const DEFAULT_REQUEST: [u8; 2] = [3, 1];
/// Options that the protocol itself uses: pad, requested address, lease time, overload, type, server, request list, size, T1, T2, end.
const RESERVED: [u8; 11] = [0, 50, 51, 52, 53, 54, 55, 57, 58, 59, 255];
/// The longest value of an option (RFC 2132, 2).
const LONGEST: usize = 255;
/// What a client identifier may be long here, one byte of type included, as with the Go plugin.
const LONGEST_ID: usize = 254;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// An unknown name.
    #[error(
        "ipam.{key}[{index}].option {value:?} is no DHCP option: a number from 1 to 254 or one of {} is expected",
        names()
    )]
    Option {
        /// `provide` or `request`.
        key: &'static str,
        /// Which entry.
        index: usize,
        /// As it was written.
        value: String,
    },
    /// An option that the protocol itself needs.
    #[error("ipam.provide[{index}].option {value:?} is set by the protocol itself: leave it out")]
    Reserved {
        /// Which entry.
        index: usize,
        /// As it was written.
        value: String,
    },
    /// Both ways or none.
    #[error("ipam.provide[{0}] needs either \"value\" or \"fromArg\"")]
    NoValue(usize),
    /// The key isn't in `CNI_ARGS`.
    #[error("ipam.provide[{index}].fromArg {key:?}: CNI_ARGS has no such key")]
    NoArg {
        /// Which entry.
        index: usize,
        /// The key.
        key: String,
    },
    /// Too long.
    #[error("ipam.provide[{index}]: a value of {length} bytes doesn't fit into an option: at most 255 do")]
    Long {
        /// Which entry.
        index: usize,
        /// Its length in bytes.
        length: usize,
    },
    /// An unknown family.
    #[error("ipam.families: {0:?} is neither \"ipv4\" nor \"ipv6\"")]
    Family(String),
    /// Not absolute.
    #[error("ipam.daemonSocketPath {0:?} is not an absolute path")]
    Socket(PathBuf),
}

fn names() -> String {
    NAMES.map(|(name, _)| name).join(", ")
}

/// The socket's path; for DEL and GC, which need nothing else of the configuration.
pub fn socket(config: &Config) -> Result<PathBuf, SettingsError> {
    match config.ipam.daemon_socket_path.as_str() {
        "" => Ok(PathBuf::from(SOCKET)),
        path if Path::new(path).is_absolute() => Ok(PathBuf::from(path)),
        path => Err(SettingsError::Socket(PathBuf::from(path))),
    }
}

/// The options for the server. Without an owner and arguments (STATUS), values that come from these count as present.
pub fn options(config: &Config, call: Option<(&Owner, &CniArgs)>) -> Result<Options, SettingsError> {
    let mut provide = Vec::new();
    for (index, entry) in config.ipam.provide.iter().enumerate() {
        let code = code("provide", index, &entry.option)?;
        if RESERVED.contains(&code) {
            return Err(SettingsError::Reserved { index, value: entry.option.clone() });
        }
        let value = match (entry.value.as_str(), entry.from_arg.as_str(), call) {
            ("", "", _) => return Err(SettingsError::NoValue(index)),
            (value, "", _) => value,
            ("", key, Some((_, args))) => {
                args.value(key).ok_or_else(|| SettingsError::NoArg { index, key: key.to_owned() })?
            }
            ("", _, None) => continue,
            _ => return Err(SettingsError::NoValue(index)),
        };
        if value.len() > LONGEST {
            return Err(SettingsError::Long { index, length: value.len() });
        }
        provide.retain(|(other, _)| *other != code);
        provide.push((code, value.as_bytes().to_vec()));
    }
    if let Some((owner, _)) = call.filter(|_| provide.iter().all(|(code, _)| *code != 61)) {
        provide.push((61, client_id(owner)));
    }
    let (v4, v6) = families(&config.ipam.families)?;
    Ok(Options { provide, request: request(config)?, priority: config.ipam.priority, v4, v6 })
}

/// The Go plugin's: a byte that says that no hardware address follows, and the owner's names.
fn client_id(owner: &Owner) -> Vec<u8> {
    let names = format!("{}/{}/{}", owner.container_id, owner.network, owner.ifname);
    let mut id = vec![0];
    id.extend_from_slice(names.as_bytes());
    id.truncate(LONGEST_ID);
    id
}

fn request(config: &Config) -> Result<Vec<u8>, SettingsError> {
    let entries = &config.ipam.request;
    let mut request =
        if entries.iter().any(|entry| entry.skip_default) { Vec::new() } else { DEFAULT_REQUEST.to_vec() };
    for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| !entry.option.is_empty()) {
        let code = code("request", index, &entry.option)?;
        if !request.contains(&code) {
            request.push(code);
        }
    }
    Ok(request)
}

fn code(key: &'static str, index: usize, text: &str) -> Result<u8, SettingsError> {
    let named = NAMES.iter().find(|(name, _)| *name == text).map(|(_, code)| *code);
    let numbered = || text.parse().ok().filter(|code| (1..=254).contains(code));
    named.or_else(numbered).ok_or_else(|| SettingsError::Option { key, index, value: text.to_owned() })
}

fn families(texts: &[String]) -> Result<(bool, bool), SettingsError> {
    let mut wanted = (texts.is_empty(), false);
    for text in texts {
        match text.as_str() {
            "ipv4" => wanted.0 = true,
            "ipv6" => wanted.1 = true,
            other => return Err(SettingsError::Family(other.to_owned())),
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn resolve(ipam: &Value, args: &str) -> Result<Options, String> {
        let config: Config = cni_plugin::json::decode(json!({ "ipam": ipam })).unwrap();
        let owner = Owner {
            network: "net".parse().unwrap(),
            container_id: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        options(&config, Some((&owner, &CniArgs::new(args)))).map_err(|error| error.to_string())
    }

    #[test]
    fn without_keys_the_reference_s_identifier_and_requests_are_sent() {
        let options = resolve(&json!({"type": "dhcp"}), "").unwrap();
        assert_eq!(options.provide, [(61, b"\0c1/net/eth0".to_vec())]);
        assert_eq!((options.request, options.v4, options.v6), (vec![3, 1], true, false));
    }

    #[test]
    fn options_go_by_name_and_number_and_may_come_from_arguments() {
        let options = resolve(
            &json!({
                "provide": [{"option": "host-name", "fromArg": "K8S_POD_NAME"}, {"option": "60", "value": "cni"},
                            {"option": "dhcp-client-identifier", "value": "me"}],
                "request": [{"skipDefault": true}, {"option": "121"}, {"option": "routers"}, {"option": "3"}],
                "families": ["ipv6", "ipv4"]
            }),
            "IgnoreUnknown=1;K8S_POD_NAME=web-0",
        )
        .unwrap();
        assert_eq!(options.provide, [(12, b"web-0".to_vec()), (60, b"cni".to_vec()), (61, b"me".to_vec())]);
        assert_eq!((options.request, options.v4, options.v6), (vec![121, 3], true, true));
    }

    #[test]
    fn bad_values_are_named() {
        for (ipam, named) in [
            (json!({"provide": [{"option": "hostname", "value": "x"}]}), "ipam.provide[0].option \"hostname\""),
            (json!({"provide": [{"option": "53", "value": "x"}]}), "\"53\" is set by the protocol"),
            (json!({"provide": [{"option": "12"}]}), "ipam.provide[0] needs either"),
            (json!({"provide": [{"option": "12", "value": "x", "fromArg": "Y"}]}), "ipam.provide[0] needs either"),
            (json!({"provide": [{"option": "12", "fromArg": "NO"}]}), "\"NO\": CNI_ARGS has no such key"),
            (json!({"provide": [{"option": "12", "value": "x".repeat(256)}]}), "256 bytes"),
            (json!({"request": [{"option": "255"}]}), "ipam.request[0].option \"255\""),
            (json!({"families": ["inet"]}), "\"inet\""),
        ] {
            let refused = resolve(&ipam, "").unwrap_err();
            assert!(refused.contains(named), "{refused}");
        }
    }
}
