//! What remains of the configuration when every contradiction has been refused. Effects take nothing else.

use cni_netfilter::{Backend, IngressPolicy};

use crate::config::Config;

const DEFAULT_ADMIN_CHAIN: &str = "CNI-ADMIN";
const DEFAULT_ZONE: &str = "trusted";
/// The longest chain name that iptables takes (`XT_EXTENSION_MAXNAMELEN` less the final zero).
const CHAIN_NAME_MAX: usize = 28;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A policy that doesn't exist.
    #[error("unknown ingress policy: {0:?}: ingressPolicy is \"open\", \"same-bridge\" or \"isolated\"")]
    IngressPolicy(String),
    /// A chain name that iptables would refuse.
    #[error(
        "iptablesAdminChainName: {0:?} is not a chain name: 1 to 28 printable characters without blanks are allowed"
    )]
    ChainName(String),
    /// A key of the other backend's.
    #[error(
        "nftables backend was requested but configuration contains iptables-specific options [\"iptablesAdminChainName\"]: \
         there the administrator's chain is CNI-ADMIN of table inet cni_firewall"
    )]
    AdminChain,
}

/// Who lets the traffic through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// firewalld where it runs, else what the node has.
    Any,
    /// firewalld.
    Firewalld,
    /// The kernel's packet filter.
    Filter(Backend),
}

/// A configuration without contradictions.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The backend.
    pub backend: Wanted,
    /// The administrator's iptables chain.
    pub admin_chain: String,
    /// firewalld's zone.
    pub zone: String,
    /// `None` is open.
    pub ingress: Option<IngressPolicy>,
}

impl Settings {
    /// Refuses what can't be carried out, before anything has been touched.
    ///
    /// A backend that doesn't exist is none: the Go plugin decides by itself then, and Podman writes an empty one.
    pub fn resolve(config: &Config) -> Result<Self, SettingsError> {
        let backend = match config.backend.as_str() {
            "iptables" => Wanted::Filter(Backend::Iptables),
            "nftables" => Wanted::Filter(Backend::Nftables),
            "firewalld" => Wanted::Firewalld,
            _ => Wanted::Any,
        };
        let ingress = match config.ingress_policy.as_str() {
            "" | "open" => None,
            "same-bridge" => Some(IngressPolicy::SameBridge),
            "isolated" => Some(IngressPolicy::Isolated),
            other => return Err(SettingsError::IngressPolicy(other.to_owned())),
        };
        let admin_chain = or_default(&config.iptables_admin_chain_name, DEFAULT_ADMIN_CHAIN);
        if !is_chain_name(&admin_chain) {
            return Err(SettingsError::ChainName(admin_chain));
        }
        if backend == Wanted::Filter(Backend::Nftables) && admin_chain != DEFAULT_ADMIN_CHAIN {
            return Err(SettingsError::AdminChain);
        }
        Ok(Self { backend, admin_chain, zone: or_default(&config.firewalld_zone, DEFAULT_ZONE), ingress })
    }
}

fn or_default(text: &str, default: &str) -> String {
    if text.is_empty() { default } else { text }.to_owned()
}

fn is_chain_name(name: &str) -> bool {
    name.len() <= CHAIN_NAME_MAX
        && name.bytes().all(|b| b.is_ascii_graphic() && !b"\"'\\".contains(&b))
        && !name.starts_with(['-', '!'])
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
    fn an_unknown_backend_is_for_the_node_to_decide() {
        for backend in ["", "pf", "IPTABLES"] {
            assert_eq!(resolve(json!({"backend": backend})).unwrap().backend, Wanted::Any);
        }
        assert_eq!(resolve(json!({"backend": "firewalld"})).unwrap().backend, Wanted::Firewalld);
    }

    #[test]
    fn policies_and_chains_are_named() {
        assert_eq!(resolve(json!({"ingressPolicy": "open"})).unwrap().ingress, None);
        assert_eq!(resolve(json!({"ingressPolicy": "isolated"})).unwrap().ingress, Some(IngressPolicy::Isolated));
        assert!(
            resolve(json!({"ingressPolicy": "closed"})).unwrap_err().contains("unknown ingress policy: \"closed\"")
        );
        assert!(resolve(json!({"iptablesAdminChainName": "a b"})).unwrap_err().contains("\"a b\""));
        let both = json!({"backend": "nftables", "iptablesAdminChainName": "MINE"});
        assert!(resolve(both).unwrap_err().contains("iptablesAdminChainName"));
        assert!(resolve(json!({"backend": "nftables", "iptablesAdminChainName": "CNI-ADMIN"})).is_ok());
    }

    #[test]
    fn what_is_empty_is_the_default() {
        let settings = resolve(json!({"iptablesAdminChainName": "", "firewalldZone": ""})).unwrap();
        assert_eq!((settings.admin_chain.as_str(), settings.zone.as_str()), ("CNI-ADMIN", "trusted"));
    }
}
