//! The resolved configuration: contradictory options are refused here, and the verbs use nothing else.

use crate::config::Config;

/// A link without addresses is of no use: nothing can be sent through it.
#[derive(Debug, thiserror::Error)]
#[error("no plugin name provided: \"ipam\" needs a \"type\", for a dummy link is there to have addresses")]
pub struct NoIpam;

/// A configuration without contradictions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The IPAM plugin.
    pub ipam: String,
}

impl Settings {
    /// Resolves the configuration, and refuses options that can't be carried out before anything is changed.
    pub fn resolve(config: &Config) -> Result<Self, NoIpam> {
        let ipam = config.ipam.plugin_type.clone();
        if ipam.is_empty() { Err(NoIpam) } else { Ok(Self { ipam }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_are_a_must() {
        let resolve = |value| Settings::resolve(&cni_plugin::json::decode::<Config>(value).unwrap());
        assert_eq!(resolve(json!({"ipam": {"type": "static"}})).unwrap().ipam, "static");
        assert!(resolve(json!({"ipam": {}})).unwrap_err().to_string().starts_with("no plugin name provided"));
    }
}
