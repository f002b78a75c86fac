//! The resolved configuration: contradictory options are refused here, and the verbs use nothing else.

use cni_firewall::{Firewall, FirewallBackend};
use cni_netfilter::{Backend, BadChainName, ChainName, IngressPolicy, UnknownPolicy};

use crate::config::Config;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A policy that doesn't exist.
    #[error(transparent)]
    IngressPolicy(#[from] UnknownPolicy),
    /// A chain name that iptables would refuse.
    #[error("iptablesAdminChainName: {0}")]
    ChainName(#[from] BadChainName),
    /// A key of another backend.
    #[error(
        "nftables backend was requested but configuration contains iptables-specific options [\"iptablesAdminChainName\"]: \
         there the administrator's chain is CNI-ADMIN of table inet cni_firewall"
    )]
    AdminChain,
}

/// A configuration without contradictions.
#[derive(Debug)]
pub struct Settings {
    /// The administrator's iptables chain.
    pub admin_chain: ChainName,
    /// `None` is open.
    pub ingress: Option<IngressPolicy>,
    /// Whether only published ports are reachable from elsewhere than the container's bridge.
    pub published_only: bool,
}

impl Settings {
    /// Resolves the configuration, and refuses options that can't be carried out before anything is changed.
    pub fn resolve(config: &Config) -> Result<Self, SettingsError> {
        let ingress = IngressPolicy::configured(&config.ingress_policy)?;
        let admin_chain: ChainName = or_default(&config.iptables_admin_chain_name, ChainName::ADMIN).parse()?;
        let is_nftables = FirewallBackend::from(config.backend.as_str()) == FirewallBackend::Filter(Backend::Nftables);
        if is_nftables && admin_chain.as_str() != ChainName::ADMIN {
            return Err(SettingsError::AdminChain);
        }
        Ok(Self { admin_chain, ingress, published_only: config.published_only })
    }
}

impl Config {
    /// The firewall to use. No backend's name is refused, so that DEL and GC work with any.
    pub fn firewall(&self) -> Firewall {
        Firewall::new(self.backend.as_str().into(), or_default(&self.firewalld_zone, "trusted"))
    }
}

fn or_default<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
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
    fn what_is_wrong_is_named() {
        assert_eq!(resolve(json!({"ingressPolicy": "isolated"})).unwrap().ingress, Some(IngressPolicy::Isolated));
        assert!(
            resolve(json!({"ingressPolicy": "closed"})).unwrap_err().contains("unknown ingress policy: \"closed\"")
        );
        assert!(resolve(json!({"iptablesAdminChainName": "a b"})).unwrap_err().contains("\"a b\""));
    }

    #[test]
    fn the_administrators_chain_of_nftables_has_one_name() {
        let named = |name: &str| resolve(json!({"backend": "nftables", "iptablesAdminChainName": name}));
        assert!(named("MINE").unwrap_err().contains("iptablesAdminChainName"));
        assert_eq!(named("CNI-ADMIN").unwrap().admin_chain.as_str(), "CNI-ADMIN");
        assert_eq!(named("").unwrap().admin_chain.as_str(), "CNI-ADMIN");
    }
}
