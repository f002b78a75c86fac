//! The resolved configuration: contradictory options are refused here, and the verbs use nothing else.

use cni_plugin::{IfName, NameError};

use crate::config::Config;

/// The tables that the kernel and `ip` use by default (`RT_TABLE_DEFAULT` to `RT_TABLE_LOCAL`).
pub const RESERVED_TABLES: std::ops::RangeInclusive<u32> = 253..=255;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No name.
    #[error("configuration is expected to have a valid vrf name: \"vrfname\" is missing or empty")]
    NoName,
    /// No link can have it.
    #[error("vrfname: {0}")]
    Name(#[from] NameError),
    /// The rest of the container is routed by it.
    #[error("table: {0} is one of the kernel's own (253 to 255): choose another one, or 0 for the first unused one")]
    Reserved(u32),
}

/// A configuration without contradictions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The VRF's name.
    pub name: IfName,
    /// Its table; `None` is the first unused one.
    pub table: Option<u32>,
}

impl Settings {
    /// Resolves the configuration, and refuses options that can't be carried out before anything is changed.
    pub fn resolve(config: &Config) -> Result<Self, SettingsError> {
        if config.vrfname.is_empty() {
            return Err(SettingsError::NoName);
        }
        if RESERVED_TABLES.contains(&config.table) {
            return Err(SettingsError::Reserved(config.table));
        }
        Ok(Self { name: config.vrfname.parse()?, table: (config.table > 0).then_some(config.table) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_must_and_tables_of_the_kernel_are_refused() {
        let resolve = |name: &str, table| Settings::resolve(&Config { vrfname: name.to_owned(), table });
        assert!(resolve("", 5).unwrap_err().to_string().contains("vrfname"));
        assert!(resolve("a/b", 5).unwrap_err().to_string().contains("a/b"));
        assert!(resolve("red", 254).unwrap_err().to_string().contains("254"));
        assert_eq!(resolve("red", 0).unwrap().table, None);
        assert_eq!(resolve("red", 1000).unwrap().table, Some(1000));
    }
}
