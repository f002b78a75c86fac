//! Keys that the configurations of several plugins have.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use crate::protocol::error::CniError;
use crate::protocol::result::Dns;

/// `args`, with what is meant for CNI plugins (CONVENTIONS.md, "args in network config").
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ConfigArgs<T> {
    /// `args.cni`
    pub cni: T,
}

/// A key with the path of the directory in which a plugin keeps its files (`dataDir`), not looked at before it is used: a
/// DEL that took the default directory in the place of a path that it can't read would find other files there.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct DirectoryKey(Value);

impl DirectoryKey {
    /// The configured directory; `default` where the key is absent or empty.
    ///
    /// # Errors
    /// If the value is not a string. The message names `key`.
    pub fn path_or(&self, default: &str, key: &str) -> Result<PathBuf, CniError> {
        match &self.0 {
            Value::String(dir) if !dir.is_empty() => Ok(PathBuf::from(dir)),
            Value::Null | Value::String(_) => Ok(PathBuf::from(default)),
            other => Err(CniError::plugin(format!("{key}: expected a path, found {other}"))),
        }
    }
}

/// The `dns` object of a plugin's configuration, where an empty list replaces IPAM's and an absent one doesn't.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct DnsConfig {
    nameservers: Option<Vec<String>>,
    domain: String,
    search: Option<Vec<String>>,
    options: Option<Vec<String>>,
}

impl DnsConfig {
    /// The configured name resolution, if any key is given; it replaces what IPAM returned.
    pub fn configured(&self) -> Option<Dns> {
        let given =
            self.nameservers.is_some() || self.search.is_some() || self.options.is_some() || !self.domain.is_empty();
        given.then(|| Dns {
            nameservers: self.nameservers.clone().unwrap_or_default(),
            domain: self.domain.clone(),
            search: self.search.clone().unwrap_or_default(),
            options: self.options.clone().unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::json;
    use serde_json::json;

    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Config {
        data_dir: DirectoryKey,
    }

    #[test]
    fn a_directory_is_a_text_or_the_default() {
        let dir = |value: Value| json::decode::<Config>(json!({"DATADIR": value})).unwrap().data_dir;
        for (value, expected) in [(json!("/x"), "/x"), (json!(""), "/default"), (json!(null), "/default")] {
            assert_eq!(dir(value).path_or("/default", "dataDir").unwrap(), PathBuf::from(expected));
        }
        let refused = dir(json!(["/x"])).path_or("/default", "ipam.dataDir").unwrap_err();
        assert_eq!(refused.msg, r#"ipam.dataDir: expected a path, found ["/x"]"#);
    }
}
