//! The resolved configuration: contradictory options are refused here, and the verbs use nothing else.

use std::net::IpAddr;

use cni_netfilter::{Backend, BadChainName, ChainName, MarkChain, Snat, UnknownBackend};
use cni_plugin::addr::{parse_cidr, parse_ip};
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::conflicts::{self, Conflict};
use crate::mapping::{Mapping, MappingError, ShareError, share_name};

/// The bit that the Go plugin uses.
const DEFAULT_MARK_BIT: u8 = 13;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// An element of `portMappings`.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// The plugin's own `share`.
    #[error("share: {0}")]
    Share(#[from] ShareError),
    /// A shared port with conditions.
    #[error(
        "{option} cannot be combined with share: which container gets a connection is decided before its own conditions are \
         asked; remove one of the two"
    )]
    ShareWithConditions {
        /// The key.
        option: &'static str,
    },
    /// Two options that exclude each other.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// A backend that doesn't exist.
    #[error(transparent)]
    Backend(#[from] UnknownBackend),
    /// A value that is neither an address nor a prefix.
    #[error("excludeHostIPs[{index}]: {value:?} is neither an IP address nor a prefix such as \"10.96.0.0/12\"")]
    Excluded {
        /// The position in the list.
        index: usize,
        /// As configured.
        value: String,
    },
    /// An option of translation where nothing is translated.
    #[error("{option} means nothing with \"nat\": false, which translates nothing: remove one of the two")]
    WithoutNat {
        /// The key.
        option: &'static str,
    },
    /// A host address where nothing is translated.
    #[error(
        "runtimeConfig.portMappings[{index}].hostIP is {address}, but with \"nat\": false a port is reachable at the container's own \
         address and cannot be limited to one of the node's: remove hostIP"
    )]
    HostIpWithoutNat {
        /// The position in the list.
        index: usize,
        /// As configured.
        address: IpAddr,
    },
    /// A mark bit that a mark doesn't have.
    #[error("MasqMarkBit must be between 0 and 31: markMasqBit is {0}")]
    MarkBit(i64),
    /// Two ways to mark.
    #[error("Cannot specify externalSetMarkChain and markMasqBit: remove one of them")]
    TwoMarks,
    /// A chain name that iptables would refuse.
    #[error("externalSetMarkChain: {0}")]
    ChainName(#[from] BadChainName),
    /// Matches or keys in the other backend's language.
    #[error("{requested} backend was requested but configuration contains {other}-specific options {options:?}")]
    WrongBackend {
        /// As configured.
        requested: Backend,
        /// Whose language the options are in.
        other: Backend,
        /// The options.
        options: Vec<&'static str>,
    },
}

/// A configuration without contradictions.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The configured backend, or the one that the other options are for; `None`: the node decides.
    pub backend: Option<Backend>,
    /// Whether ports are translated; else the containers' own ports are opened, and most of the rest means nothing.
    pub nat: bool,
    /// Source address translation.
    pub snat: Snat,
    /// How iptables marks what is translated.
    pub mark: MarkChain,
    /// Further IPv4 matches.
    pub conditions_v4: Vec<String>,
    /// Further IPv6 matches.
    pub conditions_v6: Vec<String>,
    /// Addresses of the node that ports without a host address are not published on; `None`: the plugin looks for some.
    pub exclude: Option<Vec<IpNetwork>>,
    /// Whether ports are shared.
    pub shares: bool,
    /// The ports.
    pub mappings: Vec<Mapping>,
}

impl Settings {
    /// The chain of another program that marks the connections to be masqueraded, if any are.
    pub fn external_chain(&self) -> Option<&str> {
        match &self.mark {
            MarkChain::External(chain) if self.snat != Snat::Off => Some(chain),
            _ => None,
        }
    }

    /// Resolves the configuration, and refuses options that can't be carried out before anything is changed.
    pub fn resolve(config: &Config) -> Result<Self, SettingsError> {
        let configured = Backend::configured("backend", &config.backend)?;
        let backend = configured.or_else(|| implied_backend(config));
        if let Some(backend) = backend {
            refuse_options_of_other(config, backend)?;
        }
        let snat = match (config.snat, config.masq_all) {
            (false, _) => Snat::Off,
            (true, false) => Snat::Local,
            (true, true) => Snat::All,
        };
        let mappings = config.runtime_config.port_mappings.iter().enumerate();
        let mut mappings: Vec<Mapping> =
            mappings.map(|(index, mapping)| Mapping::resolve(index, mapping)).collect::<Result<_, _>>()?;
        conflicts::refuse(&mappings)?;
        let share = share_name(&config.share)?;
        mappings.iter_mut().for_each(|mapping| mapping.share = mapping.share.take().or_else(|| share.clone()));
        refuse_conditions_of_shares(config)?;
        if !config.nat {
            refuse_translation(config, &mappings)?;
        }
        Ok(Self {
            nat: config.nat,
            backend,
            snat,
            mark: mark(config)?,
            conditions_v4: config.conditions_v4.clone().unwrap_or_default(),
            conditions_v6: config.conditions_v6.clone().unwrap_or_default(),
            exclude: excluded(config)?,
            shares: shares(config),
            mappings,
        })
    }
}

/// True if a port is to be shared, or would be if there was one.
fn shares(config: &Config) -> bool {
    let mut mappings = config.runtime_config.port_mappings.iter();
    !config.share.is_empty() || mappings.any(|mapping| !mapping.share.is_empty())
}

fn has_conditions(list: &Option<Vec<String>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

fn refuse_conditions_of_shares(config: &Config) -> Result<(), SettingsError> {
    let conditions = [("conditionsV4", &config.conditions_v4), ("conditionsV6", &config.conditions_v6)];
    match conditions.into_iter().find(|(_, list)| shares(config) && has_conditions(list)) {
        Some((option, _)) => Err(SettingsError::ShareWithConditions { option }),
        None => Ok(()),
    }
}

/// Refuses what could not be kept without translation.
fn refuse_translation(config: &Config, mappings: &[Mapping]) -> Result<(), SettingsError> {
    let options = [
        ("masqAll", config.masq_all),
        ("markMasqBit", config.mark_masq_bit.is_some()),
        ("externalSetMarkChain", config.external_set_mark_chain.is_some()),
        ("conditionsV4", has_conditions(&config.conditions_v4)),
        ("conditionsV6", has_conditions(&config.conditions_v6)),
        ("excludeHostIPs", config.exclude_host_ips.is_some()),
        ("share", shares(config)),
    ];
    if let Some((option, _)) = options.into_iter().find(|(_, is_set)| *is_set) {
        return Err(SettingsError::WithoutNat { option });
    }
    let on_address = |(index, mapping): (usize, &Mapping)| {
        mapping.host_ip.filter(|address| !address.is_unspecified()).map(|address| (index, address))
    };
    match mappings.iter().enumerate().find_map(on_address) {
        Some((index, address)) => Err(SettingsError::HostIpWithoutNat { index, address }),
        None => Ok(()),
    }
}

fn excluded(config: &Config) -> Result<Option<Vec<IpNetwork>>, SettingsError> {
    let one = |(index, text): (usize, &String)| {
        let network = parse_cidr(text).or_else(|| parse_ip(text).map(IpNetwork::from));
        network.ok_or_else(|| SettingsError::Excluded { index, value: text.clone() })
    };
    config.exclude_host_ips.as_ref().map(|list| list.iter().enumerate().map(one).collect()).transpose()
}

/// Without a configured backend, the one that an option is for.
fn implied_backend(config: &Config) -> Option<Backend> {
    [Backend::Iptables, Backend::Nftables].into_iter().find(|backend| !options_for(config, *backend).is_empty())
}

fn refuse_options_of_other(config: &Config, requested: Backend) -> Result<(), SettingsError> {
    let other = if requested == Backend::Iptables { Backend::Nftables } else { Backend::Iptables };
    let options = options_for(config, other);
    if options.is_empty() { Ok(()) } else { Err(SettingsError::WrongBackend { requested, other, options }) }
}

/// The keys whose values only this backend takes.
fn options_for(config: &Config, backend: Backend) -> Vec<&'static str> {
    let mut options = Vec::new();
    if backend == Backend::Iptables && config.external_set_mark_chain.is_some() {
        options.push("externalSetMarkChain");
    }
    if backend == Backend::Nftables && shares(config) {
        options.push("share");
    }
    for (key, conditions) in [("conditionsV4", &config.conditions_v4), ("conditionsV6", &config.conditions_v6)] {
        // An iptables match begins with `-` or `!`; nothing in nft's language does.
        let first = conditions.iter().flatten().next().filter(|first| !first.is_empty());
        if first.is_some_and(|first| first.starts_with(['-', '!']) == (backend == Backend::Iptables)) {
            options.push(key);
        }
    }
    options
}

fn mark(config: &Config) -> Result<MarkChain, SettingsError> {
    match (config.mark_masq_bit, &config.external_set_mark_chain) {
        (Some(_), Some(_)) => Err(SettingsError::TwoMarks),
        (None, Some(chain)) => Ok(MarkChain::External(chain.parse::<ChainName>()?.as_str().to_owned())),
        (None, None) => Ok(MarkChain::Bit(DEFAULT_MARK_BIT)),
        (Some(bit), None) => match u8::try_from(bit) {
            Ok(bit) if bit < 32 => Ok(MarkChain::Bit(bit)),
            _ => Err(SettingsError::MarkBit(bit)),
        },
    }
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
    fn marks_exclude_each_other_and_have_32_bits() {
        assert!(resolve(json!({"markMasqBit": 32})).unwrap_err().contains("between 0 and 31"));
        assert!(
            resolve(json!({"markMasqBit": 1, "externalSetMarkChain": "X"})).unwrap_err().contains("Cannot specify")
        );
        assert!(resolve(json!({"externalSetMarkChain": "a b"})).unwrap_err().contains("chain name"));
        assert_eq!(resolve(json!({})).unwrap().mark, MarkChain::Bit(13));
    }

    #[test]
    fn options_of_the_other_backend_are_refused() {
        let refused = resolve(json!({"backend": "nftables", "conditionsV4": ["!", "-s", "10.0.0.0/8"]})).unwrap_err();
        assert!(refused.contains("nftables backend was requested"), "{refused}");
        let refused = resolve(json!({"backend": "iptables", "conditionsV6": ["ip6 saddr ::1"]})).unwrap_err();
        assert!(refused.contains("nftables-specific"), "{refused}");
        assert!(resolve(json!({"backend": "nftables", "externalSetMarkChain": "X"})).is_err());
        assert!(resolve(json!({"conditionsV4": ["-s", "10.0.0.0/8"], "conditionsV6": ["ip6 saddr ::1"]})).is_err());
    }

    #[test]
    fn a_share_has_a_name_and_a_backend() {
        let resolved = |value: Value| {
            resolve(value).map(|settings| {
                (settings.backend, settings.mappings.into_iter().map(|mapping| mapping.share).collect::<Vec<_>>())
            })
        };
        let ports = |share: &str| {
            json!({"portMappings": [
            {"hostPort": 80, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 81, "containerPort": 80, "protocol": "tcp", "share": share}]})
        };
        let (web, api) = (Some("web".to_owned()), Some("api".to_owned()));
        let nftables = Some(Backend::Nftables);
        assert_eq!(
            resolved(json!({"share": "web", "runtimeConfig": ports("api")})),
            Ok((nftables, vec![web.clone(), api.clone()]))
        );
        assert_eq!(resolved(json!({"runtimeConfig": ports("api")})), Ok((nftables, vec![None, api])));
        assert_eq!(
            resolved(json!({"share": "web", "runtimeConfig": ports("")})),
            Ok((nftables, vec![web.clone(), web]))
        );
        assert_eq!(resolved(json!({"runtimeConfig": ports("")})), Ok((None, vec![None, None])));
        for name in ["a b", "-a", ".", "ä", "a,b", "a\"b", &"n".repeat(65)] {
            let refused = resolve(json!({"share": name})).unwrap_err();
            assert!(refused.starts_with("share: ") && refused.contains("1 to 64 letters"), "{refused}");
            let refused = resolve(json!({"runtimeConfig": ports(name)})).unwrap_err();
            assert!(refused.contains("runtimeConfig.portMappings[1].share"), "{refused}");
        }
        for (other, named) in [
            (json!({"backend": "iptables"}), "nftables-specific options [\"share\"]"),
            (json!({"conditionsV6": ["ip6 saddr fd00::/8"]}), "conditionsV6 cannot be combined with share"),
            (json!({"nat": false}), "share means nothing with \"nat\": false"),
        ] {
            let mut config = other;
            config["share"] = json!("web");
            let refused = resolve(config).unwrap_err();
            assert!(refused.contains(named), "{refused}");
        }
    }

    #[test]
    fn conditions_imply_their_backend() {
        let implied = |value: Value| resolve(value).unwrap().backend;
        assert_eq!(implied(json!({})), None);
        assert_eq!(implied(json!({"conditionsV4": ["ip saddr 10.0.0.0/8"]})), Some(Backend::Nftables));
        assert_eq!(implied(json!({"conditionsV6": ["!", "-s", "fd00::/8"]})), Some(Backend::Iptables));
        assert_eq!(implied(json!({"externalSetMarkChain": "X"})), Some(Backend::Iptables));
    }
}
