//! What remains of the configuration when every contradiction has been refused. Effects take nothing else.

use std::net::IpAddr;

use cni_netfilter::{Backend, BadChainName, ChainName, MarkChain, Protocol, Snat};
use cni_plugin::addr::{parse_cidr, parse_ip};
use ipnetwork::IpNetwork;

use crate::config::{Config, PortMapping};
use crate::plan::HostPort;
use crate::twice;

/// The bit that the Go plugin uses.
const DEFAULT_MARK_BIT: u8 = 13;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A port out of range.
    #[error(
        "Invalid {side} port number: {value} ({side}Port of runtimeConfig.portMappings[{index}]; 1 to 65535 is allowed)"
    )]
    Port {
        /// `host` or `container`.
        side: &'static str,
        /// The position in the list.
        index: usize,
        /// As configured.
        value: i64,
    },
    /// More ports than there are.
    #[error(
        "runtimeConfig.portMappings[{index}].range: {value} ports from {side}Port {first} on end beyond 65535; \
         at most {} fit", 65536 - i64::from(*first)
    )]
    Range {
        /// `host` or `container`.
        side: &'static str,
        /// The position in the list.
        index: usize,
        /// The first port.
        first: u16,
        /// As configured.
        value: i64,
    },
    /// A count that is none.
    #[error(
        "runtimeConfig.portMappings[{index}].range: {value} is not a number of ports; 0 and 1 are one port, 2 to 65535 are \
         so many in a row"
    )]
    Count {
        /// The position in the list.
        index: usize,
        /// As configured.
        value: i64,
    },
    /// A port with two targets.
    #[error(
        "runtimeConfig.portMappings[{index}] and [{other}]: host port {host_port} {protocol} can't lead to containerPort \
         {target} and to {other_target}: remove one of them, or give them different hostIPs"
    )]
    Twice {
        /// The position of one in the list.
        index: usize,
        /// The position of the other one.
        other: usize,
        /// The port, with its address if there is one.
        host_port: String,
        /// Its protocol.
        protocol: Protocol,
        /// Where the one leads.
        target: u16,
        /// Where the other one leads.
        other_target: u16,
    },
    /// A protocol without ports.
    #[error("runtimeConfig.portMappings[{index}].protocol: {value:?} is not \"tcp\", \"udp\" or \"sctp\"")]
    Protocol {
        /// The position in the list.
        index: usize,
        /// As configured.
        value: String,
    },
    /// A host address that isn't one.
    #[error("runtimeConfig.portMappings[{index}].hostIP: {value:?} is not an IP address")]
    HostIp {
        /// The position in the list.
        index: usize,
        /// As configured.
        value: String,
    },
    /// Something that is no address.
    #[error("excludeHostIPs[{index}]: {value:?} is neither an IP address nor a prefix such as \"10.96.0.0/12\"")]
    Excluded {
        /// The position in the list.
        index: usize,
        /// As configured.
        value: String,
    },
    /// A backend that doesn't exist.
    #[error("unrecognized backend {0:?}: backend is \"iptables\" or \"nftables\"")]
    Backend(String),
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
        requested: &'static str,
        /// Whose language the options are in.
        other: &'static str,
        /// The options.
        options: Vec<String>,
    },
}

/// A port to publish, with every part in range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The protocol.
    pub protocol: Protocol,
    /// The host address; `None` is every address.
    pub host_ip: Option<IpAddr>,
    /// Only this family is meant, even if every address is: `0.0.0.0` is IPv4, `::` is IPv6.
    pub only_v4: Option<bool>,
    /// On the host.
    pub host_port: u16,
    /// In the container.
    pub container_port: u16,
    /// How many ports in a row, at least one.
    pub count: u16,
}

impl Mapping {
    /// Each port of the range on the host.
    pub fn host_ports(&self) -> impl Iterator<Item = HostPort> {
        (0..self.count).map(|n| (self.protocol, self.host_ip, self.host_port.saturating_add(n)))
    }
}

/// A configuration without contradictions.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The configured backend; `None` is for the node to decide.
    pub backend: Option<Backend>,
    /// Source address translation.
    pub snat: Snat,
    /// How iptables marks what is translated.
    pub mark: MarkChain,
    /// Further IPv4 matches.
    pub conditions_v4: Vec<String>,
    /// Further IPv6 matches.
    pub conditions_v6: Vec<String>,
    /// What ports without a host address are not published on; `None` is for the plugin to find.
    pub exclude: Option<Vec<IpNetwork>>,
    /// The ports.
    pub mappings: Vec<Mapping>,
}

impl Settings {
    /// Somebody else's chain that marks what is masqueraded, if anything is.
    pub fn external_chain(&self) -> Option<&str> {
        match &self.mark {
            MarkChain::External(chain) if self.snat != Snat::Off => Some(chain),
            _ => None,
        }
    }

    /// Refuses what can't be carried out, before anything has been touched.
    pub fn resolve(config: &Config) -> Result<Self, SettingsError> {
        let backend = backend(config)?.or_else(|| implied_backend(config));
        if backend == Some(Backend::Nftables) {
            refuse_iptables_options(config)?;
        }
        if backend == Some(Backend::Iptables) {
            refuse_nftables_conditions(config)?;
        }
        let snat = match (config.snat, config.masq_all) {
            (false, _) => Snat::Off,
            (true, false) => Snat::Local,
            (true, true) => Snat::All,
        };
        let mappings = config.runtime_config.port_mappings.iter().enumerate();
        let mappings: Vec<Mapping> =
            mappings.map(|(index, mapping)| resolve_mapping(index, mapping)).collect::<Result<_, _>>()?;
        twice::refuse(&mappings)?;
        Ok(Self {
            backend,
            snat,
            mark: mark(config)?,
            conditions_v4: config.conditions_v4.clone().unwrap_or_default(),
            conditions_v6: config.conditions_v6.clone().unwrap_or_default(),
            exclude: excluded(config)?,
            mappings,
        })
    }
}

fn excluded(config: &Config) -> Result<Option<Vec<IpNetwork>>, SettingsError> {
    let one = |(index, text): (usize, &String)| {
        let network = parse_cidr(text).or_else(|| parse_ip(text).map(IpNetwork::from));
        network.ok_or_else(|| SettingsError::Excluded { index, value: text.clone() })
    };
    config.exclude_host_ips.as_ref().map(|list| list.iter().enumerate().map(one).collect()).transpose()
}

fn backend(config: &Config) -> Result<Option<Backend>, SettingsError> {
    match config.backend.as_str() {
        "" => Ok(None),
        "iptables" => Ok(Some(Backend::Iptables)),
        "nftables" => Ok(Some(Backend::Nftables)),
        other => Err(SettingsError::Backend(other.to_owned())),
    }
}

/// Options in one backend's language say which one is meant, if it isn't said otherwise.
fn implied_backend(config: &Config) -> Option<Backend> {
    let conditions = |iptables| !conditions_of(config, iptables).is_empty();
    if config.external_set_mark_chain.is_some() || conditions(true) {
        return Some(Backend::Iptables);
    }
    conditions(false).then_some(Backend::Nftables)
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

/// An iptables match begins with `-` or `!`; nothing in the nft language does.
fn is_iptables_condition(conditions: &[String]) -> Option<bool> {
    conditions.first().filter(|first| !first.is_empty()).map(|first| first.starts_with(['-', '!']))
}

fn refuse_iptables_options(config: &Config) -> Result<(), SettingsError> {
    let mut options = Vec::new();
    if config.external_set_mark_chain.is_some() {
        options.push("externalSetMarkChain".to_owned());
    }
    options.extend(conditions_of(config, true));
    wrong_backend("nftables", "iptables", options)
}

fn refuse_nftables_conditions(config: &Config) -> Result<(), SettingsError> {
    wrong_backend("iptables", "nftables", conditions_of(config, false))
}

fn conditions_of(config: &Config, iptables: bool) -> Vec<String> {
    [("conditionsV4", &config.conditions_v4), ("conditionsV6", &config.conditions_v6)]
        .into_iter()
        .filter(|(_, conditions)| conditions.as_deref().and_then(is_iptables_condition) == Some(iptables))
        .map(|(key, _)| key.to_owned())
        .collect()
}

fn wrong_backend(requested: &'static str, other: &'static str, options: Vec<String>) -> Result<(), SettingsError> {
    if options.is_empty() { Ok(()) } else { Err(SettingsError::WrongBackend { requested, other, options }) }
}

fn resolve_mapping(index: usize, mapping: &PortMapping) -> Result<Mapping, SettingsError> {
    let port = |side, value: i64| match u16::try_from(value) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(SettingsError::Port { side, index, value }),
    };
    let protocol = match mapping.protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err(SettingsError::Protocol { index, value: mapping.protocol.clone() }),
    };
    let host_ip = match mapping.host_ip.as_str() {
        "" => None,
        text => Some(parse_ip(text).ok_or_else(|| SettingsError::HostIp { index, value: mapping.host_ip.clone() })?),
    };
    let (host_port, container_port) = (port("host", mapping.host_port)?, port("container", mapping.container_port)?);
    let value = if mapping.range == 0 { 1 } else { mapping.range };
    let count = u16::try_from(value).ok().filter(|count| *count > 0).ok_or(SettingsError::Count { index, value })?;
    for (side, first) in [("host", host_port), ("container", container_port)] {
        first.checked_add(count - 1).ok_or(SettingsError::Range { side, index, first, value })?;
    }
    Ok(Mapping {
        protocol,
        host_ip: host_ip.filter(|ip| !ip.is_unspecified()),
        only_v4: host_ip.map(|ip| ip.is_ipv4()),
        host_port,
        container_port,
        count,
    })
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
